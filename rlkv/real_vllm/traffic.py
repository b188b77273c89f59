"""Agents that pause on tools and strangers that come once, as token ids and moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlkv_engine.paged.tiny_tokenizer import SPECIAL_TOKENS, VOCAB_SIZE
from rlkv_engine.trace import Trace

#: No token before it is text.
FIRST_TOKEN = len(SPECIAL_TOKENS)
#: Tokens of a stranger's prompt and of the answer to it, uniform.
STRANGER_PROMPT_TOKENS = (64, 512)
STRANGER_OUTPUT_TOKENS = (8, 32)


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session."""

    #: Tokens at the front of its prompt that the session has in its context already.
    kept_tokens: int
    new_tokens: Sequence[int]  #: token ids after these
    output_tokens: int
    tool: str = ""  #: that the answer calls; empty: none
    pause_s: float = 0.0  #: from the answer to the next turn


@dataclass(frozen=True, slots=True)
class Session:
    """Turns one after the other."""

    name: str
    is_agent: bool
    arrival_s: float
    turns: Sequence[Turn]

    @property
    def num_turns(self) -> int:
        """Requests that it will make."""
        return len(self.turns)


def agents(trace: Trace, seed: int) -> list[Session]:
    """The sessions of a trace; no two of them, of any two seeds, begin with the same tokens."""
    random = np.random.default_rng((seed, 0))
    sessions = []
    for i in range(trace.num_sessions):
        turns = []
        for turn in range(int(trace.first_turn[i]), int(trace.first_turn[i + 1])):
            kept = int(trace.shared_prefix_tokens[turn])
            is_last = turn + 1 == trace.first_turn[i + 1]
            turns.append(
                Turn(
                    kept,
                    random_tokens(random, int(trace.input_tokens[turn]) - kept),
                    int(trace.output_tokens[turn]),
                    "" if is_last else trace.tools[int(trace.tool[turn])],
                    0.0 if is_last else float(trace.pause_s[turn]),
                )
            )
        sessions.append(Session(f"agent-{seed}-{i}", True, float(trace.arrival_s[i]), turns))
    return sessions


def strangers(num: int, rate_per_s: float, seed: int) -> list[Session]:
    """Requests that nobody comes back to, Poisson."""
    random = np.random.default_rng((seed, 1))
    arrival_s = np.cumsum(random.standard_exponential(num)) / rate_per_s
    return [
        Session(
            f"stranger-{seed}-{i}",
            False,
            float(arrival_s[i]),
            [
                Turn(
                    0,
                    random_tokens(random, _uniform(random, STRANGER_PROMPT_TOKENS)),
                    _uniform(random, STRANGER_OUTPUT_TOKENS),
                )
            ],
        )
        for i in range(num)
    ]


def random_tokens(random: np.random.Generator, num: int) -> list[int]:
    """Token ids of text: none of them is special."""
    tokens: list[int] = random.integers(FIRST_TOKEN, VOCAB_SIZE, num).tolist()
    return tokens


def _uniform(random: np.random.Generator, bounds: tuple[int, int]) -> int:
    low, high = bounds
    return int(random.integers(low, high, endpoint=True))
