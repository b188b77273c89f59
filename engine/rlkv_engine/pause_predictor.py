"""A predictor of pauses: one decision tree that puts every pause into a class as it begins.

A class is a row of a ``PauseTable``. What the tree reads is known when a pause begins, and depends
on the session alone, not on the engine: so the classes of a whole trace are known before it is run,
and the compiled loop reads a class where it would read a tool.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.jit import jit
from rlkv_engine.pause_features import (
    NUM_PAUSE_FEATURES,
    empty_past,
    note_pause,
    pause_features,
    trace_features,
)
from rlkv_engine.state import INPUT_TOKENS, OUTPUT_TOKENS, SHARED_PREFIX
from rlkv_engine.trace import Trace

# Columns of a node: LEFT if the feature is at most THRESHOLD, else RIGHT. A leaf has FEATURE -1 and
# its class in LEFT. Links lead to later nodes.
FEATURE, THRESHOLD, LEFT, RIGHT, NODE_COLUMNS = range(5)


@jit
def class_of(nodes: NDArray[np.float64], features: NDArray[np.float64]) -> int:
    """The class of one pause."""
    node = 0
    while nodes[node, FEATURE] >= 0:
        if features[int(nodes[node, FEATURE])] <= nodes[node, THRESHOLD]:
            node = int(nodes[node, LEFT])
        else:
            node = int(nodes[node, RIGHT])
    return int(nodes[node, LEFT])


@jit
def _classes_of(
    nodes: NDArray[np.float64], features: NDArray[np.float64], out: NDArray[np.int64]
) -> None:
    for i in range(out.shape[0]):
        out[i] = class_of(nodes, features[i])


@dataclass(frozen=True, slots=True, eq=False)
class PausePredictor:
    """A fitted tree and what its features need; the last row of statistics is an unknown tool."""

    tools: tuple[str, ...]
    tool_statistics: NDArray[np.float64]  # [num_tools + 1, NUM_TOOL_STATISTICS]
    floor_s: float  #: shorter pauses count as so long where a logarithm is taken
    nodes: NDArray[np.float64]  # [num_nodes, NODE_COLUMNS], the root first
    #: How it was fitted; JSON values.
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Classes: leaves of the tree."""
        return int((self.nodes[:, FEATURE] < 0).sum())

    def features(self, trace: Trace) -> NDArray[np.float64]:
        """What is known of the pause after each turn, ``[num_turns, NUM_PAUSE_FEATURES]``."""
        out = np.zeros((trace.num_turns, NUM_PAUSE_FEATURES))
        trace_features(
            trace.first_turn,
            trace.turns,
            trace.pause_s,
            np.array([self.tool_row(tool) for tool in trace.tools], np.int64),
            self.tool_statistics,
            self.floor_s,
            empty_past(len(self.tool_statistics)),
            out,
        )
        return out

    def turn_rows(self, trace: Trace) -> NDArray[np.int64]:
        """Class of the pause after each turn, shape ``[num_turns]``; -1 after last turns."""
        out = np.zeros(trace.num_turns, np.int64)
        _classes_of(self.nodes, self.features(trace), out)
        out[trace.first_turn[1:] - 1] = -1
        return out

    def tool_row(self, tool: str) -> int:
        """Row of a tool's statistics; the last one for a tool that training did not have."""
        return self.tools.index(tool) if tool in self.tools else len(self.tools)


class SessionPauses:
    """The same classes for a live session, whose turns become known one after another."""

    def __init__(self, predictor: PausePredictor) -> None:
        self._predictor = predictor
        self._past = empty_past(len(predictor.tool_statistics))
        self._turn = np.ones((4, 1), np.int64)
        self._features = np.zeros(NUM_PAUSE_FEATURES)
        self._tool = -1

    def begin(
        self, tool: str, *, input_tokens: int, shared_prefix_tokens: int, output_tokens: int
    ) -> int:
        """A turn has ended in a call of ``tool``: the class of the pause that begins.

        Raises:
            ValueError: the pause before it has not ended, or there is no token.
        """
        if self._tool >= 0:
            raise ValueError("the session's last pause has not ended")
        if output_tokens < 1 or not 0 <= shared_prefix_tokens <= input_tokens:
            raise ValueError(
                f"no turn has {input_tokens} tokens, {shared_prefix_tokens} of them as before, and"
                f" generates {output_tokens}"
            )
        self._tool = self._predictor.tool_row(tool)
        self._turn[INPUT_TOKENS] = input_tokens
        self._turn[SHARED_PREFIX] = shared_prefix_tokens
        self._turn[OUTPUT_TOKENS] = output_tokens
        pause_features(
            self._past, self._predictor.tool_statistics, self._turn, 0, self._tool, self._features
        )
        return class_of(self._predictor.nodes, self._features)

    def end(self, pause_s: float) -> None:
        """The pause has ended after ``pause_s`` seconds.

        Raises:
            ValueError: no pause has begun.
        """
        if self._tool < 0:
            raise ValueError("no pause has begun")
        log_s = math.log(max(pause_s, self._predictor.floor_s))
        note_pause(self._past, self._predictor.tool_statistics, self._tool, log_s)
        self._tool = -1
