"""A predictor of how long a pause lasts, evaluated once, when the pause begins.

It is a discrete survival model. A few times cut the pauses into classes; for each of these times,
boosted trees say how likely a pause that has lasted so long is to last until the next. That gives
the chance of every class, and within a class pauses are as the training sessions had them. What is
left after ``e`` seconds is then one lookup: ``sum_k p_k E[(T - e)+ | k] / sum_k p_k P(T > e | k)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.jit import jit
from rlkv_engine.pause_features import NUM_TOOL_STATISTICS, pause_features
from rlkv_engine.state import (
    FIRST_SESSION,
    NUM_PAUSE_CLASSES,
    PAUSE_FEATURES_AT,
    PAUSE_FLOOR_S,
    REAL_ROWS,
    SID,
    TURN,
    State,
)

# Columns of a node. A leaf has FEATURE -1, in THRESHOLD the hazard that it adds VALUE to, and in
# LEFT the root of the next tree (-1: there is none), so that all trees are one walk.
FEATURE, THRESHOLD, LEFT, RIGHT, VALUE, NODE_COLUMNS = range(6)


@dataclass(frozen=True, slots=True, eq=False)
class PausePredictor:
    """Arrays of a fitted predictor; index ``len(tools)`` is a tool that it does not know."""

    tools: tuple[str, ...]
    tool_statistics: NDArray[np.float64]  # [num_tools + 1, NUM_TOOL_STATISTICS]
    floor_s: float  #: shorter pauses count as so long where a logarithm is taken
    edges_s: NDArray[np.float64]  # [num_classes - 1], ascending: where one class ends
    trees: NDArray[np.float64]  # [num_nodes, NODE_COLUMNS]
    alive: NDArray[np.float64]  # [num_classes, NUM_BINS]: P(T > e | class) on estimates.GRID_S
    excess_s: NDArray[np.float64]  # [num_classes, NUM_BINS]: E[max(T - e, 0) | class]
    #: How it was fitted; JSON values.
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Classes of pauses."""
        return len(self.alive)

    def statistics_of(self, tools: tuple[str, ...]) -> NDArray[np.float64]:
        """Statistics of other people's tools by name, shape ``[len(tools) + 1, ...]``."""
        index = {tool: row for row, tool in enumerate(self.tools)}
        every = len(self.tools)
        return self.tool_statistics[[index.get(tool, every) for tool in tools] + [every]]

    def forecast(self, tools: tuple[str, ...]) -> NDArray[np.float64]:
        """``State.forecast``: rows of ``alive``, of ``excess_s``, and of the tools' statistics."""
        statistics = self.statistics_of(tools)
        rows = np.zeros((len(statistics), self.alive.shape[1]))
        rows[:, :NUM_TOOL_STATISTICS] = statistics
        return np.concatenate([self.alive, self.excess_s, rows])


@jit
def class_chances(
    trees: NDArray[np.float64], features: NDArray[np.float64], out: NDArray[np.float64]
) -> None:
    """Chance of every class of pauses, shape ``[num_classes]``, from the features of one."""
    last = out.shape[0] - 1
    for k in range(last + 1):
        out[k] = 0.0
    node = 0 if trees.shape[0] > 0 else -1
    while node >= 0:
        feature = int(trees[node, FEATURE])
        if feature < 0:
            out[int(trees[node, THRESHOLD])] += trees[node, VALUE]
            node = int(trees[node, LEFT])
        else:
            # The side as a number rather than a branch, which would be mispredicted half the time.
            node = int(trees[node, LEFT + int(features[feature] > trees[node, THRESHOLD])])
    # From log odds of lasting on, given that it lasted so long, to the chance of ending there.
    survives = 1.0
    for k in range(last):
        goes_on = 1.0 / (1.0 + math.exp(-out[k]))
        out[k] = survives * (1.0 - goes_on)
        survives *= goes_on
    out[last] = survives


@jit
def predict_pause(st: State, s: int) -> None:
    """Chances of the classes of the pause that begins now, kept with the slot."""
    num_classes = st.n[NUM_PAUSE_CLASSES]
    features = st.f[PAUSE_FEATURES_AT:]
    pause_features(
        st.turns,
        st.pause_s,
        st.forecast[2 * num_classes :],
        st.f[PAUSE_FLOOR_S],
        st.first_turn[st.n[FIRST_SESSION] + st.slot[SID, s]],
        st.slot[TURN, s],
        features,
    )
    class_chances(st.trees, features, st.real[REAL_ROWS : REAL_ROWS + num_classes, s])


@jit
def chances_matrix(
    trees: NDArray[np.float64], features: NDArray[np.float64], out: NDArray[np.float64]
) -> None:
    """``class_chances`` of many pauses, by row."""
    for i in range(features.shape[0]):
        class_chances(trees, features[i], out[i])
