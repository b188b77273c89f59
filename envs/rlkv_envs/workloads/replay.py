"""Sessions sampled from a recorded trace, split by conversation root."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.workloads.base import SPLITS, Split, Workload
from rlkv_envs.workloads.options import check_turn_limits
from rlkv_envs.workloads.session_arrays import fit_contexts, scale_contexts, turn_index

#: Share of the roots in each split, in the order of ``SPLITS``.
SPLIT_RATIOS: Final[tuple[float, float, float]] = (0.60, 0.15, 0.25)


def split_of_root(root: str) -> Split:
    """The split of a conversation root: a stable hash, the same in every trace and version."""
    digest = hashlib.sha256(root.encode("utf-8", "surrogatepass")).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    bounds = np.cumsum(SPLIT_RATIOS)
    index = int(np.searchsorted(bounds, position, side="right"))
    return SPLITS[min(index, len(SPLITS) - 1)]


@dataclass(frozen=True, eq=False)
class TraceWorkload(Workload):
    """Replays the sessions of a trace; its arrivals are not used (see ``arrivals.Stamps``).

    Sessions are drawn without repeats until the split's pool is used up, then anew.

    Attributes:
        trace: the recorded sessions.
        context_scale: factor on all token counts, outputs included.
        min_turns: sessions with fewer turns are left out of the pool.
        max_turns: longer sessions are cut to a number of turns drawn evenly from ``min_turns``
            to ``max_turns``. None leaves them whole.
        window: where a cut session begins: ``head`` at its beginning, ``any`` anywhere (its
            first prompt is then the whole context so far, and nothing of it is shared).
        max_pause_s: longer pauses are cut. None leaves them whole.
        max_context_tokens: sessions that grow longer are scaled down to it, never left out.
            None: no limit.
    """

    trace: Trace
    context_scale: float = 1.0
    min_turns: int = 1
    max_turns: int | None = None
    window: Literal["head", "any"] = "head"
    max_pause_s: float | None = None
    max_context_tokens: int | None = None
    _pools: dict[Split, NDArray[np.int64]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.context_scale <= 1:
            raise InputError(f"context_scale must be above 0, at most 1, got {self.context_scale}")
        if self.window not in ("head", "any"):
            raise InputError(f"window must be head or any, got {self.window!r}")
        if self.max_pause_s is not None and not self.max_pause_s > 0:
            raise InputError(f"max_pause_s must be above 0, got {self.max_pause_s}")
        check_turn_limits(self.min_turns, self.max_turns)
        long_enough = np.diff(self.trace.first_turn) >= self.min_turns
        splits = np.array([SPLITS.index(split_of_root(root)) for root in self.trace.roots])
        for index, split in enumerate(SPLITS):
            self._pools[split] = np.flatnonzero(long_enough & (splits == index))

    @property
    def name(self) -> str:
        """The name of the trace."""
        return self.trace.name

    @property
    def description(self) -> str:
        """One line with the number of sessions."""
        return f"replay of {self.trace.num_sessions} recorded sessions of {self.trace.name}"

    @property
    def tools(self) -> tuple[str, ...]:
        """The tools of the trace."""
        return self.trace.tools

    def pool(self, split: Split) -> NDArray[np.int64]:
        """Indices of the sessions that a split draws from.

        Raises:
            InputError: there are none.
        """
        sessions = self._pools[split]
        if len(sessions) == 0:
            num_roots = len(set(self.trace.roots))
            reason = (
                f"no session of {self.min_turns} turns or more falls into the {split} split"
                f" ({num_roots} conversation roots in all)"
            )
            raise InputError(reason, path=self.trace.name)
        return sessions

    def bodies(self, rng: np.random.Generator, split: Split, num_sessions: int) -> Trace:
        """Draws sessions; see ``Workload.bodies``."""
        pool = self.pool(split)
        num_rounds = -(-num_sessions // len(pool))
        drawn = np.concatenate([rng.permutation(pool) for _ in range(num_rounds)])[:num_sessions]
        cut_draw, start_draw = rng.random((2, num_sessions))
        bodies = self.trace.select(drawn)
        if self.max_turns is not None:
            room = self.max_turns - self.min_turns + 1
            wanted = self.min_turns + np.floor(cut_draw * room).astype(np.int64)
            bodies = _cut(bodies, wanted, start_draw if self.window == "any" else 0.0 * start_draw)
        pause_s = bodies.pause_s
        if self.max_pause_s is not None:
            pause_s = np.minimum(pause_s, self.max_pause_s)
        bodies = replace(
            bodies,
            arrival_s=np.full(num_sessions, np.nan),
            pause_s=pause_s,
            session_ids=[f"{name}@{i}" for i, name in enumerate(bodies.session_ids)],
            num_concurrent=0,
        )
        if self.context_scale != 1:
            bodies = scale_contexts(bodies, self.context_scale)
        if self.max_context_tokens is not None:
            bodies = fit_contexts(bodies, self.max_context_tokens)
        return bodies


def _cut(trace: Trace, wanted: NDArray[np.int64], start: NDArray[np.float64]) -> Trace:
    """Keeps at most ``wanted`` neighbouring turns of each session.

    ``start``, from 0 to below 1, says where between the first and the last possible beginning.
    """
    lengths = np.diff(trace.first_turn)
    kept = np.minimum(wanted, lengths)
    skipped = np.floor(start * (lengths - kept + 1)).astype(np.int64)
    first_turn, position = turn_index(kept)
    turns = np.repeat(trace.first_turn[:-1] + skipped, kept) + position
    pause_s = trace.pause_s[turns]
    tool = trace.tool[turns]
    shared = trace.shared_prefix_tokens[turns]
    pause_s[first_turn[1:] - 1] = np.nan
    tool[first_turn[1:] - 1] = -1
    shared[first_turn[:-1]] = 0
    return replace(
        trace,
        first_turn=first_turn,
        input_tokens=trace.input_tokens[turns],
        shared_prefix_tokens=shared,
        output_tokens=trace.output_tokens[turns],
        tool=tool,
        pause_s=pause_s,
    )
