"""Synthetic tools of 0.3 to 3 seconds, where the three verbs cost about the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlkv_engine.trace import Trace
from rlkv_envs.workloads.base import Split, Workload
from rlkv_envs.workloads.draws import clipped_lognormal_tokens
from rlkv_envs.workloads.parameters import load_parameters
from rlkv_envs.workloads.session_arrays import (
    fit_contexts,
    growing_context,
    make_bodies,
    turn_index,
)


@dataclass(frozen=True)
class Crossover(Workload):
    """See ``data/crossover.toml`` for the numbers and why they were chosen.

    Attributes:
        max_context_tokens: sessions that grow longer are scaled down to it; the default is
            GPT-J-6B's limit.
    """

    max_context_tokens: int = 2048

    @property
    def name(self) -> str:
        """``crossover``."""
        return "crossover"

    @property
    def description(self) -> str:
        """One line from the parameter table."""
        return str(load_parameters("crossover")["description"])

    @property
    def tools(self) -> tuple[str, ...]:
        """The synthetic tools, fastest first."""
        return tuple(load_parameters("crossover")["tools"])

    def bodies(self, rng: np.random.Generator, split: Split, num_sessions: int) -> Trace:
        """Draws sessions; see ``Workload.bodies``."""
        table = load_parameters("crossover")
        session: dict[str, Any] = table["session"]
        low, high = session["calls"]
        num_turns = rng.integers(low, high, num_sessions, endpoint=True) + 1
        first_turn, _ = turn_index(num_turns)
        size = int(first_turn[-1])

        low, high = session["first_prompt_tokens"]
        first_prompt = rng.integers(low, high, num_sessions, endpoint=True)
        output_tokens = clipped_lognormal_tokens(rng, session, "output_tokens", size)
        return_tokens = clipped_lognormal_tokens(rng, session, "return_tokens", size)
        input_tokens, shared = growing_context(
            first_turn, first_prompt, output_tokens, return_tokens
        )

        favourite = np.repeat(rng.integers(len(self.tools), size=num_sessions), num_turns)
        is_favourite = rng.random(size) < session["favourite_ratio"]
        tool = np.where(is_favourite, favourite, rng.integers(len(self.tools), size=size))
        median_s = np.array([kind["median_s"] for kind in table["tools"].values()])
        sigma = np.array([kind["sigma"] for kind in table["tools"].values()])
        pause_s = median_s[tool] * np.exp(sigma[tool] * rng.standard_normal(size))
        bodies = make_bodies(
            self.name,
            self.tools,
            f"{self.name}-{split}",
            first_turn,
            input_tokens=input_tokens,
            shared_prefix_tokens=shared,
            output_tokens=output_tokens,
            tool=tool,
            pause_s=np.minimum(pause_s, table["limits"]["pause_s"]),
        )
        return fit_contexts(bodies, self.max_context_tokens)
