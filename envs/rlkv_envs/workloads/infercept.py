"""The six augmentations of InferCept, drawn from parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.trace import Trace
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

_PARAMETERS = "infercept"


@dataclass(frozen=True)
class InferCept(Workload):
    """See ``data/infercept.toml`` for the numbers, their sources and traps.

    Attributes:
        max_context_tokens: sessions that grow longer are scaled down to it; the default is
            GPT-J-6B's limit, for which the mixture was made.
        published_environment: give virtual-environment sessions the 28.18 calls of the paper's
            Table 1 instead of the 5.35 to which the data file was cut.
    """

    max_context_tokens: int = 2048
    published_environment: bool = False

    @property
    def name(self) -> str:
        """``infercept``."""
        return _PARAMETERS

    @property
    def description(self) -> str:
        """One line from the parameter table."""
        return str(load_parameters(_PARAMETERS)["description"])

    @property
    def tools(self) -> tuple[str, ...]:
        """The augmentations; ``<augmentation>/human`` where a person is waited for."""
        names: list[str] = []
        for kind, entry in load_parameters(_PARAMETERS)["kinds"].items():
            human = entry.get("human")
            names += [kind] if human != "every" else []
            names += [f"{kind}/human"] if human else []
        return tuple(names)

    def bodies(self, rng: np.random.Generator, split: Split, num_sessions: int) -> Trace:
        """Draws sessions; see ``Workload.bodies``."""
        table = load_parameters(_PARAMETERS)
        kinds = table["kinds"]
        weights = {str(index): entry["weight"] for index, entry in enumerate(kinds.values())}
        kind = draw_counts(rng, weights, num_sessions)
        num_turns = np.ones(num_sessions, np.int64)
        first_prompt = np.ones(num_sessions, np.int64)
        for index, entry in enumerate(kinds.values()):
            chosen = np.flatnonzero(kind == index)
            num_turns[chosen] = self._num_turns(rng, table, entry, len(chosen))
            prompts = QuantileTable.from_entry(entry["first_prompt_tokens"], table["levels"])
            first_prompt[chosen] = prompts.tokens(rng.standard_normal(len(chosen)))

        first_turn, position = turn_index(num_turns)
        size = int(first_turn[-1])
        output_tokens = np.ones(size, np.int64)
        return_tokens = np.zeros(size, np.int64)
        tool = np.zeros(size, np.int64)
        pause_s = np.zeros(size)
        is_last = position == np.repeat(num_turns, num_turns) - 1
        kind_of_turn = np.repeat(kind, num_turns)
        for index, (name, entry) in enumerate(kinds.items()):
            turns = np.flatnonzero(kind_of_turn == index)
            drawn = _Turns(rng, table, entry, position[turns], is_last[turns])
            output_tokens[turns] = drawn.output_tokens
            return_tokens[turns] = drawn.return_tokens
            pause_s[turns] = drawn.pause_s
            tool[turns] = np.where(
                drawn.is_human,
                self._tool_index(f"{name}/human"),
                self._tool_index(name),
            )
        input_tokens, shared = growing_context(
            first_turn, first_prompt, output_tokens, return_tokens
        )
        bodies = make_bodies(
            self.name,
            self.tools,
            f"{self.name}-{split}",
            first_turn,
            input_tokens=input_tokens,
            shared_prefix_tokens=shared,
            output_tokens=output_tokens,
            tool=tool,
            pause_s=pause_s,
        )
        return fit_contexts(bodies, self.max_context_tokens)

    def _tool_index(self, name: str) -> int:
        """Position in ``tools``; -1 for a kind without such calls."""
        return self.tools.index(name) if name in self.tools else -1

    def _num_turns(
        self,
        rng: np.random.Generator,
        table: Mapping[str, Any],
        entry: Mapping[str, Any],
        size: int,
    ) -> NDArray[np.int64]:
        """Turns of ``size`` sessions of one kind."""
        if self.published_environment and "published_calls" in entry:
            calls = QuantileTable.from_entry(entry["published_calls"], table["levels"])
            return np.clip(calls.tokens(rng.standard_normal(size)), 1, 100) + 1
        return draw_counts(rng, entry["turns"], size)


class _Turns:
    """Draws of all turns of one kind; arrays of shape ``[num_turns of the kind]``."""

    def __init__(
        self,
        rng: np.random.Generator,
        table: Mapping[str, Any],
        entry: Mapping[str, Any],
        position: NDArray[np.int64],
        is_last: NDArray[np.bool_],
    ):
        size = len(position)
        levels = table["levels"]
        human = entry.get("human", "never")
        self.is_human = np.full(size, human == "every")
        if human == "alternate":
            self.is_human = position % 2 == 1

        scores = rng.standard_normal(size)
        self.output_tokens = QuantileTable.from_entry(entry["output_tokens"], levels).tokens(scores)
        read_tokens = self.output_tokens.copy()
        if "output_last_tokens" in entry:
            last = QuantileTable.from_entry(entry["output_last_tokens"], levels).tokens(scores)
            self.output_tokens = np.where(is_last, last, self.output_tokens)
        if human == "alternate":
            # The person reads what was said before the picture or the sound.
            read_tokens = np.roll(read_tokens, 1)
            said = table["alternate"]["human_output_tokens"]
            self.output_tokens = np.where(self.is_human, said, self.output_tokens)

        scores = rng.standard_normal(size)
        self.return_tokens = QuantileTable.from_entry(entry["return_tokens"], levels).tokens(scores)
        self.pause_s = np.zeros(size)
        if human != "never":
            reply = table["kinds"]["chatbot"]["return_tokens"]
            scores = session_scores(rng, position, table["human"]["session_variance_ratio"])
            typed = QuantileTable.from_entry(reply, levels).tokens(scores)
            self.return_tokens = np.where(self.is_human, typed, self.return_tokens)
            self.pause_s = human_pauses_s(rng, table["human"], read_tokens, typed)
        if "pause_s" in entry:
            scores = session_scores(rng, position, entry.get("session_variance_ratio", 0.0))
            tool_s = QuantileTable.from_entry(entry["pause_s"], levels).at(scores)
            tool_s[rng.random(size) < entry.get("zero_ratio", 0.0)] = 0.0
            self.pause_s = np.where(self.is_human, self.pause_s, tool_s)
