"""People chatting, arriving in bursts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlkv_engine.trace import Trace
from rlkv_envs.workloads.arrivals import ArrivalProcess, GammaRenewal
from rlkv_envs.workloads.base import Split, Workload
from rlkv_envs.workloads.draws import draw_counts, human_pauses_s, session_scores
from rlkv_envs.workloads.parameters import load_parameters
from rlkv_envs.workloads.quantile_table import QuantileTable
from rlkv_envs.workloads.session_arrays import (
    fit_contexts,
    growing_context,
    make_bodies,
    turn_index,
)

_PARAMETERS = "chat-bursts"


@dataclass(frozen=True)
class ChatBursts(Workload):
    """See ``data/chat-bursts.toml`` for the numbers and their sources.

    Attributes:
        max_context_tokens: sessions that grow longer are scaled down to it.
    """

    max_context_tokens: int = 8192

    @property
    def name(self) -> str:
        """``chat-bursts``."""
        return _PARAMETERS

    @property
    def description(self) -> str:
        """One line from the parameter table."""
        return str(load_parameters(_PARAMETERS)["description"])

    @property
    def tools(self) -> tuple[str, ...]:
        """A person is all that these sessions wait for."""
        return ("human",)

    def default_arrivals(self, rate_per_s: float) -> ArrivalProcess:
        """Gamma gaps with a coefficient of variation of 4."""
        return GammaRenewal(rate_per_s, load_parameters(_PARAMETERS)["arrivals"]["cv"])

    def bodies(self, rng: np.random.Generator, split: Split, num_sessions: int) -> Trace:
        """Draws sessions; see ``Workload.bodies``."""
        table = load_parameters(_PARAMETERS)
        first_prompt, output, reply = (
            QuantileTable.from_entry(table[name], table["levels"])
            for name in ("first_prompt_tokens", "output_tokens", "return_tokens")
        )
        first_turn, position = turn_index(draw_counts(rng, table["turns"]["counts"], num_sessions))
        size = int(first_turn[-1])
        output_tokens = output.tokens(rng.standard_normal(size))
        shared_ratio = table["human"]["session_variance_ratio"]
        typed_tokens = reply.tokens(session_scores(rng, position, shared_ratio))
        input_tokens, shared = growing_context(
            first_turn,
            first_prompt.tokens(rng.standard_normal(num_sessions)),
            output_tokens,
            typed_tokens,
        )
        bodies = make_bodies(
            self.name,
            self.tools,
            f"{self.name}-{split}",
            first_turn,
            input_tokens=input_tokens,
            shared_prefix_tokens=shared,
            output_tokens=output_tokens,
            tool=np.zeros(size, np.int64),
            pause_s=human_pauses_s(rng, table["human"], output_tokens, typed_tokens),
        )
        return fit_contexts(bodies, self.max_context_tokens)
