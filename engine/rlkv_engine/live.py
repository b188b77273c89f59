"""Sessions that come and go while the engine runs, of which nobody knows how they go on.

The compiled scheduler reads sessions and turns from columns of a trace. Here the columns are
written while it runs: a session is added, its turns end when its output does, its pauses last until
somebody resumes them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import interventions
from rlkv_engine import state as S
from rlkv_engine.config import EngineConfig
from rlkv_engine.engine import Names
from rlkv_engine.errors import InputError
from rlkv_engine.estimates import PauseTable
from rlkv_engine.jit import jit
from rlkv_engine.profile import Profile
from rlkv_engine.stepped import SteppedEngine
from rlkv_engine.trace import Trace

#: Columns of a session. A longer one uses its last ones again and again: its number of turns, as a
#: policy sees it, ends here.
MAX_TURNS = 64
#: Sessions that have columns at first; as many again whenever they are used up.
FIRST_SESSIONS = 256


@jit
def _pause_now(stack: S.State, s: int) -> None:
    interventions.pause_now(S.engine_view(stack, 0), s)


@jit
def _return_at(stack: S.State, s: int, at_s: float) -> None:
    interventions.return_at(S.engine_view(stack, 0), s, at_s)


@jit
def _cancel(stack: S.State, s: int) -> None:
    interventions.cancel(S.engine_view(stack, 0), s)


@jit
def _cancel_waiting(stack: S.State, sid: int) -> None:
    interventions.cancel_waiting(S.engine_view(stack, 0), sid)


def _no_sessions(tools: tuple[str, ...]) -> Trace:
    ints, floats = np.zeros(0, np.int64), np.zeros(0)
    return Trace(
        "live", tools, np.zeros(1, np.int64), floats, ints, ints, ints, ints, floats, (), ()
    )


class LiveEngine(SteppedEngine):
    """A stepped engine without a trace: the caller adds, pauses, resumes and ends sessions.

    Sessions are numbered from 0 in the order in which they were added; the numbers are good until
    the session ends. Calls are made between iterations, never while one is carried out, but for
    ``stop_after``.

    Args:
        profile: what the machine costs.
        rule: ``rule.RULE_SIZE`` numbers.
        table: what is known of pauses, by tool.
        config: switches of the scheduler.
        log_rows: rows of log kept of one iteration.
    """

    def __init__(
        self,
        profile: Profile,
        rule: NDArray[np.float64],
        table: PauseTable,
        *,
        config: EngineConfig | None = None,
        lease_s: NDArray[np.float64] | None = None,
        log_rows: int = 4096,
    ) -> None:
        super().__init__(
            profile,
            _no_sessions(table.tools),
            rule,
            table=table,
            config=config,
            lease_s=lease_s,
            log_rows=log_rows,
        )
        self._table = table
        # By session: its latest turn that has ended with a tool, and which.
        self._tools: dict[int, tuple[int, str]] = {}
        self._first_sid = 0  # number of the session in the first columns
        self._stack = self._stack._replace(
            latency=np.zeros((1, 0, self._stack.latency.shape[2])),
            **_columns(FIRST_SESSIONS),
        )

    @property
    def first_sid(self) -> int:
        """Number of the session that the state calls 0: columns are used again."""
        return self._first_sid

    @property
    def num_sessions(self) -> int:
        """Sessions that were added and have not ended."""
        n = self._stack.n[0]
        return int(n[S.NUM_SESSIONS] - n[S.NUM_FINISHED])

    def slot_of(self, sid: int) -> int | None:
        """The slot of a session; None before it is first admitted."""
        slots = self._stack.slot[0]
        own = np.flatnonzero((slots[S.PHASE] != S.EMPTY) & (slots[S.SID] == sid - self._first_sid))
        return int(own[0]) if len(own) else None

    def sid_of(self, slot: int) -> int:
        """Number of the session in a slot."""
        return int(self._stack.slot[0, S.SID, slot]) + self._first_sid

    def names_of(self, slots: NDArray[np.int64]) -> Names:
        """The sessions in some slots by their numbers, their turns and the tools they called."""
        sids, columns = self._stack.slot[0, S.SID, slots], self._stack.slot[0, S.TURN, slots]
        numbers = (sids + self._first_sid).tolist()
        turns = columns - self._stack.first_turn[sids]
        told = [self._tools.get(number, (-1, "")) for number in numbers]
        return Names(
            [str(number) for number in numbers],
            turns,
            [
                tool if turn == of_turn else ""
                for turn, (of_turn, tool) in zip(turns.tolist(), told, strict=True)
            ],
        )

    def phase(self, sid: int) -> int:
        """``state.QUEUED``, ``PREFILL``, ``DECODE`` or ``PAUSED``; one never admitted is QUEUED."""
        slot = self.slot_of(sid)
        return S.QUEUED if slot is None else int(self._stack.slot[0, S.PHASE, slot])

    def add(self, input_tokens: int, max_output_tokens: int) -> int:
        """A session arrives with its first prompt; returns its number.

        Raises:
            InputError: the device pool can never hold prompt and output.
        """
        self._check_fits(input_tokens, max_output_tokens)
        n = self._stack.n[0]
        if n[S.NUM_SESSIONS] == len(self._stack.first_turn) - 1:
            self._make_room()
        column = int(n[S.NUM_SESSIONS])
        first = column * MAX_TURNS
        self._stack.sessions[:, column] = self.now_s, 1.0 / max_output_tokens
        self._write_turn(first, input_tokens, 0, max_output_tokens)
        n[S.NUM_SESSIONS] += 1
        return column + self._first_sid

    def stop_after(self, slot: int) -> None:
        """The token that this iteration brings a running slot is the last one of its turn.

        To be called between ``start_iteration`` and ``end_iteration``.
        """
        slots, iteration = self._stack.slot[0], self._stack.n[0, S.ITERATION]
        generated = slots[S.GENERATED, slot] + 1
        if slots[S.PHASE, slot] == S.DECODE:
            generated += iteration - slots[S.SINCE, slot]
            slots[S.DUE, slot] = iteration + 1
        self._stack.turns[S.OUTPUT_TOKENS, slots[S.TURN, slot]] = generated

    def pause(self, sid: int, tool: str) -> None:
        """The turn of a session is over, and it has called ``tool``.

        A turn that has ended by itself is only told the tool. Raises ``ValueError`` for a session
        that has not emitted anything in this turn.
        """
        slot = self.slot_of(sid)
        if slot is None:
            raise ValueError(f"session {sid} waits to be admitted: it cannot pause")
        slots = self._stack.slot[0]
        goes_on = slots[S.PHASE, slot] != S.PAUSED
        if goes_on and self._generated(slot) == 0:
            raise ValueError(f"session {sid} has generated nothing in this turn yet")
        first = self._stack.first_turn[slots[S.SID, slot]]
        self._tools[sid] = int(slots[S.TURN, slot] - first), tool
        row = self._table.rows_for((tool,))[0]
        self._stack.turns[S.TOOL, slots[S.TURN, slot]] = row
        if goes_on:
            _pause_now(self._stack, slot)

    def resume(
        self, sid: int, input_tokens: int, shared_prefix_tokens: int, max_output_tokens: int
    ) -> None:
        """The tool of a paused session has returned; its next prompt is so long.

        Args:
            sid: number of the session.
            input_tokens: the whole prompt of the next turn.
            shared_prefix_tokens: how much of it is the session's context so far, unchanged.
            max_output_tokens: longest output of the next turn.

        Raises:
            InputError: the device pool can never hold prompt and output.
            ValueError: the session is not paused.
        """
        self._check_fits(input_tokens, max_output_tokens)
        slot = self.slot_of(sid)
        slots = self._stack.slot[0]
        if slot is None or slots[S.PHASE, slot] != S.PAUSED:
            raise ValueError(f"session {sid} is not paused")
        turn = int(slots[S.TURN, slot])
        first = int(self._stack.first_turn[slots[S.SID, slot]])
        if turn - first == MAX_TURNS - 2:
            # The last column is never used: a session ends by ``cancel`` alone.
            self._stack.turns[:, turn - 1] = self._stack.turns[:, turn]
            turn -= 1
            slots[S.TURN, slot] = turn
            if sid in self._tools:
                self._tools[sid] = turn - first, self._tools[sid][1]
        self._write_turn(turn + 1, input_tokens, shared_prefix_tokens, max_output_tokens)
        _return_at(self._stack, slot, self.now_s)

    def cancel(self, sid: int) -> None:
        """A session ends, whatever it is doing; every block it held on either tier is free."""
        self._tools.pop(sid, None)
        slot = self.slot_of(sid)
        if slot is None:
            _cancel_waiting(self._stack, sid - self._first_sid)
        else:
            _cancel(self._stack, slot)

    def _generated(self, slot: int) -> int:
        slots = self._stack.slot[0]
        generated = int(slots[S.GENERATED, slot])
        if slots[S.PHASE, slot] == S.DECODE:
            generated += int(self._stack.n[0, S.ITERATION] - slots[S.SINCE, slot])
        return generated

    def _write_turn(self, turn: int, input_tokens: int, shared: int, max_output: int) -> None:
        every = len(self._table.tools)
        self._stack.turns[:, turn] = (input_tokens, shared, max_output, every)
        self._stack.pause_s[turn] = math.inf

    def _check_fits(self, input_tokens: int, max_output_tokens: int) -> None:
        block_size = self.profile.block_size
        blocks = -(-(input_tokens + max_output_tokens) // block_size)
        if blocks > self.profile.num_device_blocks:
            raise InputError(
                f"a prompt of {input_tokens} tokens with up to {max_output_tokens} of output needs"
                f" {blocks} blocks of {block_size} tokens, the device pool has"
                f" {self.profile.num_device_blocks}"
            )

    def _make_room(self) -> None:
        # Columns of sessions that have ended before the oldest living one are used again; if that
        # frees less than half of them, there are twice as many.
        n, slots = self._stack.n[0], self._stack.slot[0]
        # What stands in an empty slot is of no session, and must stay a column that there is.
        living = slots[S.PHASE] != S.EMPTY
        oldest = min([int(n[S.NEXT_NEW]), *slots[S.SID, living].tolist()])
        capacity, used = len(self._stack.first_turn) - 1, int(n[S.NUM_SESSIONS]) - oldest
        grown = _columns(capacity if 2 * used <= capacity else 2 * capacity)
        turns = slice(oldest * MAX_TURNS, int(n[S.NUM_SESSIONS]) * MAX_TURNS)
        grown["sessions"][:, :used] = self._stack.sessions[:, oldest : oldest + used]
        grown["turns"][:, : used * MAX_TURNS] = self._stack.turns[:, turns]
        grown["pause_s"][: used * MAX_TURNS] = self._stack.pause_s[turns]
        self._stack = self._stack._replace(**grown)
        slots[S.SID, living] -= oldest
        slots[S.TURN, living] -= oldest * MAX_TURNS
        n[[S.NUM_SESSIONS, S.NEXT_ARRIVAL, S.NEXT_NEW, S.NUM_FINISHED]] -= oldest
        self._first_sid += oldest
        # What is logged and not read yet is of the same sessions; LOG_DECODE names none.
        log = self.log
        log[log[:, 2] != S.LOG_DECODE, 3] -= oldest


def _columns(num_sessions: int) -> dict[str, Any]:
    num_turns = num_sessions * MAX_TURNS
    return {
        "first_turn": np.arange(num_sessions + 1) * MAX_TURNS,
        "sessions": np.zeros((2, num_sessions)),
        "turns": np.zeros((4, num_turns), np.int64),
        "pause_s": np.zeros(num_turns),
    }
