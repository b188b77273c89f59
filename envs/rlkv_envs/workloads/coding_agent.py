"""Sessions of a coding agent, fitted to recorded ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.workloads.base import Split, Workload
from rlkv_envs.workloads.coding_contexts import by_kind, draw_contexts, entry_quantiles
from rlkv_envs.workloads.options import check_turn_limits
from rlkv_envs.workloads.parameters import load_parameters
from rlkv_envs.workloads.session_arrays import (
    fit_contexts,
    make_bodies,
    scale_contexts,
    turn_index,
)

_PARAMETERS = "coding-agent"


@dataclass(frozen=True)
class CodingAgent(Workload):
    """See ``data/coding-agent.toml`` for the numbers, their source and its traps.

    Attributes:
        context_scale: factor on all token counts, outputs included: the recorded contexts (100k
            tokens) suit few machines, and scaling everything alike is the same workload on a
            machine as much faster and larger.
        min_turns: shortest session; shorter draws are lengthened.
        max_turns: each session is cut after a number of turns drawn evenly from ``min_turns``
            to ``max_turns`` (whole sessions, up to 400 turns, make episodes endless). None
            leaves sessions whole.
        max_pause_s: longer pauses are cut (1 % of the tools', 28 % of the humans'): KV that
            stays unused for ten minutes is nobody's to keep. None leaves pauses whole.
        max_context_tokens: sessions that grow longer (a fifth of them) are scaled down to it,
            as a server with that limit would compact them. None: no limit.
    """

    context_scale: float = 0.25
    min_turns: int = 4
    max_turns: int | None = 12
    max_pause_s: float | None = 600.0
    max_context_tokens: int | None = 32_768

    def __post_init__(self) -> None:
        if not 0 < self.context_scale <= 1:
            raise InputError(f"context_scale must be above 0, at most 1, got {self.context_scale}")
        if self.max_pause_s is not None and not self.max_pause_s > 0:
            raise InputError(f"max_pause_s must be above 0, got {self.max_pause_s}")
        check_turn_limits(self.min_turns, self.max_turns)

    @property
    def name(self) -> str:
        """``coding-agent``."""
        return _PARAMETERS

    @property
    def description(self) -> str:
        """One line from the parameter table."""
        return str(load_parameters(_PARAMETERS)["description"])

    @property
    def tools(self) -> tuple[str, ...]:
        """The recorded kinds of pause: there are no tool names."""
        return tuple(load_parameters(_PARAMETERS)["kinds"]["names"])

    def bodies(self, rng: np.random.Generator, split: Split, num_sessions: int) -> Trace:
        """Draws sessions; see ``Workload.bodies``."""
        table = load_parameters(_PARAMETERS)
        first_prompt = _first_prompts(rng, table, num_sessions)
        num_turns = self._num_turns(rng, table, first_prompt)
        first_turn, _ = turn_index(num_turns)
        kind = _kinds(rng, table, num_turns)
        pause_s = _pauses(rng, table, num_turns, kind, self.tools)
        if self.max_pause_s is not None:
            pause_s = np.minimum(pause_s, self.max_pause_s)
        output_tokens = _outputs(rng, table, num_turns, kind, self.tools)
        input_tokens, shared = draw_contexts(
            rng, table, first_prompt, kind, self.tools, pause_s, output_tokens
        )
        owned = np.arange(kind.shape[1]) < num_turns[:, None]
        bodies = make_bodies(
            self.name,
            self.tools,
            f"{self.name}-{split}",
            first_turn,
            input_tokens=input_tokens[owned],
            shared_prefix_tokens=shared[owned],
            output_tokens=output_tokens[owned],
            tool=kind[owned],
            pause_s=pause_s[owned],
        )
        if self.context_scale != 1:
            bodies = scale_contexts(bodies, self.context_scale)
        if self.max_context_tokens is not None:
            bodies = fit_contexts(bodies, self.max_context_tokens)
        return bodies

    def _num_turns(
        self, rng: np.random.Generator, table: Mapping[str, Any], first_prompt: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Turns of each session, shape ``[num_sessions]``."""
        scores = rng.standard_normal(len(first_prompt))
        resumed = table["turns_resumed"]
        drawn = np.where(
            first_prompt < resumed["from_first_prompt_tokens"],
            entry_quantiles(table, table["turns"]).at(scores),
            entry_quantiles(table, resumed).at(scores),
        )
        longest = table["turns"]["values"][-1]
        num_turns = np.clip(np.rint(drawn), self.min_turns, max(longest, self.min_turns))
        cut = rng.random(len(first_prompt))  # drawn even where unused: the rest stays the same
        if self.max_turns is not None:
            room = self.max_turns - self.min_turns + 1
            num_turns = np.minimum(num_turns, self.min_turns + np.floor(cut * room))
        whole: NDArray[np.int64] = num_turns.astype(np.int64)
        return whole


def _first_prompts(
    rng: np.random.Generator, table: Mapping[str, Any], num_sessions: int
) -> NDArray[np.int64]:
    """Prompt tokens of each session's first turn, shape ``[num_sessions]``."""
    entry = table["first_prompt_tokens"]
    drawn = entry_quantiles(table, entry).at(rng.standard_normal(num_sessions))
    tokens: NDArray[np.int64] = np.rint(np.minimum(drawn, entry["values"][-1])).astype(np.int64)
    return tokens


# The arrays below are [num_sessions, longest session]; turns past a session's end are unused.


def _kinds(
    rng: np.random.Generator, table: Mapping[str, Any], num_turns: NDArray[np.int64]
) -> NDArray[np.int64]:
    """What each turn pauses on, by the Markov chain of the table."""
    uniform = rng.random((len(num_turns), int(num_turns.max())))
    following = np.asarray(table["kinds"]["next"], np.float64)
    # The chance of any earlier kind; the last kind takes what is left.
    thresholds = np.cumsum(following, axis=1)[:, :-1]
    first = np.cumsum(np.asarray(table["kinds"]["first"], np.float64))[:-1]
    kind = np.zeros((len(num_turns), int(num_turns.max())), np.int64)
    kind[:, 0] = np.searchsorted(first, uniform[:, 0], side="right")
    for turn in range(1, kind.shape[1]):
        above = uniform[:, turn][:, np.newaxis] >= thresholds[kind[:, turn - 1]]
        kind[:, turn] = above.sum(axis=1)
    return kind


def _pauses(
    rng: np.random.Generator,
    table: Mapping[str, Any],
    num_turns: NDArray[np.int64],
    kind: NDArray[np.int64],
    names: tuple[str, ...],
) -> NDArray[np.float64]:
    """Pauses in seconds: a session's share, and a first-order autoregression around it."""
    shared = table["pause"]["session_variance_ratio"]
    carry = table["pause"]["residual_autocorrelation"]
    residual = rng.standard_normal(kind.shape)
    for turn in range(1, kind.shape[1]):
        fresh = np.sqrt(1 - carry**2) * residual[:, turn]
        residual[:, turn] = carry * residual[:, turn - 1] + fresh
    session = rng.standard_normal((len(num_turns), 1))
    scores = np.sqrt(shared) * session + np.sqrt(1 - shared) * residual
    return by_kind(table, table["pause"], scores, kind, names)


def _outputs(
    rng: np.random.Generator,
    table: Mapping[str, Any],
    num_turns: NDArray[np.int64],
    kind: NDArray[np.int64],
    names: tuple[str, ...],
) -> NDArray[np.int64]:
    """Generated tokens of each turn."""
    shared = table["output_tokens"]["session_variance_ratio"]
    session = rng.standard_normal((len(num_turns), 1))
    scores = np.sqrt(shared) * session + np.sqrt(1 - shared) * rng.standard_normal(kind.shape)
    drawn = by_kind(table, table["output_tokens"], scores, kind, names)
    return np.maximum(1, np.rint(drawn)).astype(np.int64)
