"""The engine of a library user: sessions that pause, on a real model with real KV memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import state as S
from rlkv_engine.config import EngineConfig
from rlkv_engine.errors import InputError
from rlkv_engine.estimates import PauseTable
from rlkv_engine.live import LiveEngine
from rlkv_engine.loop import RULE_POLICY, Policy
from rlkv_engine.paged.arena import arena_for
from rlkv_engine.paged.clock import Clock, WallClock
from rlkv_engine.paged.context import Context
from rlkv_engine.paged.copies import copy_engine
from rlkv_engine.paged.executor import Executor
from rlkv_engine.paged.sampling import Sampling
from rlkv_engine.planner import MemoryPlanner, PolicyPlanner
from rlkv_engine.profile import Profile

if TYPE_CHECKING:
    from rlkv_engine.paged.loading import LoadedModel

#: With nothing to compute, copies are made for so many iterations at a time; a session that comes
#: meanwhile waits for them.
_IDLE_ITERATIONS = 4.0


@dataclass(frozen=True, slots=True)
class Token:
    """A token that a session generated."""

    session: int
    token: int
    #: Why the turn is over: a stop token, or the longest output; None: it goes on.
    end: Literal["stop", "length"] | None


@dataclass(slots=True)
class _Session:
    context: Context
    stop_tokens: frozenset[int]
    left: int  # tokens that may still come in this turn


class PagedEngine:
    """Generates for sessions that pause, and keeps their KV where a policy says.

    ::

        engine = PagedEngine(load_model("tiny"), profile, rule, table)
        session = engine.add_session(prompt, max_new_tokens=64)
        while not (out := engine.step()) or out[-1].end is None:
            ...
        engine.pause(session, "search")
        # ... the tool runs, other sessions are served by engine.step() ...
        engine.resume(session, tool_result, max_new_tokens=64)

    One thread calls it. A turn that has ended is a pause, and ``cancel`` the end of a session.

    Args:
        loaded: the model.
        profile: costs and sizes of this model on this machine (``rlkv calibrate``).
        rule: ``rlkv_engine.rule.RULE_SIZE`` numbers.
        table: what is known of pauses, by tool.
        policy: answers the decisions; without one the rule does.
        planner: answers them in the place of a policy, see planner.py.
        config: switches of the scheduler.
        prefix_caching: whether sessions use what others have computed of their prompt.
        clock: the time; without one that of the wall.

    Raises:
        InputError: there is not so much memory.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        profile: Profile,
        rule: NDArray[np.float64],
        table: PauseTable,
        *,
        policy: Policy = RULE_POLICY,
        planner: MemoryPlanner | None = None,
        config: EngineConfig | None = None,
        lease_s: NDArray[np.float64] | None = None,
        prefix_caching: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self._max_tokens = loaded.config.max_position_embeddings
        self._planner = planner or PolicyPlanner(policy)
        self._clock = clock or WallClock()
        self._engine = LiveEngine(profile, rule, table, config=config, lease_s=lease_s)
        self._sessions: dict[int, _Session] = {}
        self._arena = arena_for(loaded, profile)
        self._copies = copy_engine(self._arena)
        # Not through self: a cycle would keep both tiers until a collector comes by.
        engine, sessions = self._engine, self._sessions
        self._executor = Executor(
            loaded.model,
            self._arena,
            self._copies,
            engine,
            lambda slot: sessions[engine.sid_of(slot)].context,
            max_tokens=min(self._max_tokens, profile.device_tokens),
            prefix_caching=prefix_caching,
        )

    @property
    def profile(self) -> Profile:
        """Costs and sizes the scheduler reckons with."""
        return self._engine.profile

    @property
    def state(self) -> S.State:
        """The scheduler's memory state (state.py); arrays are views, do not write to them."""
        return self._engine.state

    def add_session(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        stop_tokens: Collection[int] = (),
        sampling: Sampling | None = None,
    ) -> int:
        """A session begins with a prompt; returns its number.

        Args:
            prompt: token ids, at least one.
            max_new_tokens: longest output of this turn.
            stop_tokens: ids that end a turn; the one that does is part of the output.
            sampling: how tokens are chosen; without it the likeliest is taken.

        Raises:
            InputError: prompt and output are longer than the model or the device pool takes.
        """
        self._check_length(len(prompt), max_new_tokens)
        self._engine.move_clock(self._clock.now_s())
        session = self._engine.add(len(prompt), max_new_tokens)
        context = Context(self.profile.block_size, sampling or Sampling())
        context.begin_turn(0, prompt)
        self._sessions[session] = _Session(context, frozenset(stop_tokens), max_new_tokens)
        return session

    def pause(self, session: int, tool: str) -> None:
        """The session's turn is over, by its own end or right now, and it has called ``tool``.

        Raises:
            KeyError: no such session.
            ValueError: it has not generated anything in this turn.
        """
        self._find(session)
        self._engine.move_clock(self._clock.now_s())
        self._engine.pause(session, tool)

    def resume(
        self,
        session: int,
        new_tokens: Sequence[int],
        *,
        max_new_tokens: int,
        kept_tokens: int | None = None,
        stop_tokens: Collection[int] | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        """The pause is over: the next prompt is the context so far and ``new_tokens``.

        Args:
            session: number of the session.
            new_tokens: token ids.
            max_new_tokens: longest output of this turn.
            kept_tokens: so much of the context so far stays; without it, all of it.
            stop_tokens: as in ``add_session``; without it, those of the turn before.
            sampling: as in ``add_session``; without it, that of the turn before.

        Raises:
            KeyError: no such session.
            ValueError: it is not paused.
            InputError: prompt and output are longer than the model or the device pool takes.
        """
        found = self._find(session)
        context = found.context
        kept = len(context.tokens) if kept_tokens is None else kept_tokens
        if not 0 <= kept <= len(context.tokens) or kept + len(new_tokens) == 0:
            raise InputError(f"{kept} tokens cannot be kept of {len(context.tokens)}")
        prompt_tokens = kept + len(new_tokens)
        self._check_length(prompt_tokens, max_new_tokens)
        self._engine.move_clock(self._clock.now_s())
        self._engine.resume(session, prompt_tokens, kept, max_new_tokens)
        context.begin_turn(kept, new_tokens)
        found.left = max_new_tokens
        if stop_tokens is not None:
            found.stop_tokens = frozenset(stop_tokens)
        if sampling is not None:
            context.sampling = sampling

    def cancel(self, session: int) -> None:
        """The session ends, whatever it is doing; nothing of it stays but what others may reuse.

        Raises:
            KeyError: no such session.
        """
        self._find(session)
        self._engine.move_clock(self._clock.now_s())
        self._engine.cancel(session)
        del self._sessions[session]
        self._executor.follow()

    def tokens(self, session: int) -> list[int]:
        """Prompt and output of all turns so far."""
        return self._find(session).context.tokens.tolist()

    def cached_tokens(self, session: int) -> int:
        """Tokens of this turn's prompt that did not have to be computed."""
        context = self._find(session).context
        return max(0, context.prompt_tokens - context.computed_tokens)

    def step(self) -> list[Token]:
        """One iteration: what is computed, copied and decided; the tokens that came out.

        Returns at once, with nothing, where nothing is to be done.
        """
        engine = self._engine
        engine.move_clock(self._clock.now_s())
        self._planner.plan_memory(engine)
        self._executor.follow()
        self._executor.use_prefixes()
        plan = engine.start_iteration(_IDLE_ITERATIONS * self.profile.iteration_s)
        if plan is None:
            return []
        emissions = self._executor.carry_out(plan)
        tokens = []
        for emission in emissions:
            number = engine.sid_of(emission.slot)
            session = self._sessions[number]
            session.left -= 1
            end: Literal["stop", "length"] | None = "length" if session.left == 0 else None
            if emission.token in session.stop_tokens:
                end = "stop"
                engine.stop_after(emission.slot)
            tokens.append(Token(number, emission.token, end))
        if plan.has_work:
            self._clock.spend(plan.expected_s)
        engine.end_iteration(plan, self._clock.now_s() - engine.now_s)
        self._executor.follow()
        return tokens

    @property
    def idle_s(self) -> float:
        """So long ``step`` has nothing to do unless it is called for; infinite: for good."""
        n = self._engine.live_state.n
        busy = (S.NUM_RUN, S.NUM_QUEUE, S.NUM_CALLS, S.NUM_SWAP_OUT, S.NUM_WRITE_THROUGH)
        if np.any(n[list(busy)] > 0):
            return 0.0
        return max(0.0, self._engine.next_event_s() - self._clock.now_s())

    def check_integrity(self) -> None:
        """Raises ``IntegrityError`` where the books of scheduler, tables and pools disagree."""
        self._executor.check_integrity()

    def close(self) -> None:
        """Ends the thread that copies."""
        self._copies.close()

    def _find(self, session: int) -> _Session:
        found = self._sessions.get(session)
        if found is None:
            raise KeyError(f"there is no session {session}")
        return found

    def _check_length(self, prompt_tokens: int, max_new_tokens: int) -> None:
        if prompt_tokens < 1:
            raise InputError("a prompt has at least one token")
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1 (got {max_new_tokens})")
        if prompt_tokens + max_new_tokens > self._max_tokens:
            raise InputError(
                f"a prompt of {prompt_tokens} tokens with up to {max_new_tokens} of output is"
                f" longer than the model's {self._max_tokens}"
            )
