"""Fits a predictor of pauses on training sessions.

The times that cut pauses into classes are quantiles of the pauses and of the pause time: most
pauses are short, most time lies in the long ones. For each of them a booster learns, from the
pauses that lasted so long, which go on to last until the next; scikit-learn fits it, and what is
kept are its trees as arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.errors import InputError
from rlkv_engine.estimates import GRID_S, mean_residual_s
from rlkv_engine.pause_features import (
    NUM_PAUSE_FEATURES,
    NUM_TOOL_STATISTICS,
    TOOL_HUMAN,
    TOOL_MEAN,
    TOOL_SPREAD,
    feature_matrix,
)
from rlkv_engine.pause_predictor import (
    FEATURE,
    LEFT,
    NODE_COLUMNS,
    RIGHT,
    PausePredictor,
    chances_matrix,
)
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import TABLE_SEED, TABLE_SESSIONS
from rlkv_envs.workloads import SPLITS, Split, TraceWorkload, Workload

#: Names of tools that stand for a person, as the readers and workloads call them.
HUMAN_TOOLS = frozenset({"human", "user", "chat", "chatbot"})
#: Calls worth of all tools' statistics that a tool's own are mixed with.
SHRINKAGE = 30.0
#: Shares of the pauses, and of the pause time, at which a class ends. More classes or trees bring
#: 1 % and cost microseconds: 6 x 12 trees of depth 5 take 5 us a pause.
COUNT_SHARES = (0.10, 0.25, 0.50, 0.75)
TIME_SHARES = (0.25, 0.60)
#: A class is at least this much longer than the one before it.
CLASS_RATIO = 1.25
#: Pauses that a class needs, and that a fit needs in all.
MIN_CLASS_PAUSES = 40
MIN_PAUSES = 200
#: Of the boosters; chosen by grouped cross-validation on the training split of the WEKA sessions.
NUM_TREES = 12
LEARNING_RATE = 0.2
MAX_LEAVES = 31
MAX_DEPTH = 5
MIN_LEAF_PAUSES = 40
L2 = 1.0
#: What is left of the last class at any time, so that no pause is ever impossible.
LAST_ALIVE = 1e-6


def training_sessions(workload: Workload) -> Trace:
    """The sessions a predictor of a workload is fitted on."""
    return whole_sessions(workload, "train")


def whole_sessions(workload: Workload, split: Split) -> Trace:
    """Every recorded session of a split once and uncut; of a generator, as many as for a table."""
    rng = np.random.default_rng(TABLE_SEED)
    if isinstance(workload, TraceWorkload):
        whole = replace(workload, max_turns=None)
        return whole.bodies(rng, split, len(whole.pool(split)))
    # Another split of a generator is another stream: the same one would be the same sessions.
    return workload.bodies(rng.spawn(3)[SPLITS.index(split)], split, TABLE_SESSIONS)


def fit_predictor(trace: Trace, *, seed: int = 0, num_trees: int = NUM_TREES) -> PausePredictor:
    """A predictor from the pauses of (training) sessions; the same seed gives the same one.

    Raises:
        InputError: too few pauses to learn from.
    """
    called = np.flatnonzero(np.isfinite(trace.pause_s))
    if len(called) < MIN_PAUSES:
        reason = f"{len(called)} pauses: a predictor needs at least {MIN_PAUSES}"
        raise InputError(reason, path=trace.name)
    pause_s = trace.pause_s[called]
    # Below the first percentile differences are those of the clock that recorded them.
    floor_s = max(float(np.percentile(pause_s, 1)), float(GRID_S[1]))
    log_s = np.log(np.maximum(pause_s, floor_s))
    statistics = _tool_statistics(trace.tools, trace.tool[called], log_s)
    edges_s = _class_edges_s(pause_s)
    features = _features(trace, called, statistics, floor_s)
    trees = _fit_hazards(features, pause_s, edges_s, seed=seed, num_trees=num_trees)
    alive, excess_s = _class_tables(pause_s, edges_s)
    return PausePredictor(
        tools=trace.tools,
        tool_statistics=statistics,
        floor_s=floor_s,
        edges_s=edges_s,
        trees=thread_trees(trees),
        alive=alive,
        excess_s=excess_s,
        metadata={
            "trace": trace.name,
            "num_sessions": trace.num_sessions,
            "num_pauses": len(called),
            "mean_pause_s": float(pause_s.mean()),
            "seed": seed,
            "num_trees": num_trees,
        },
    )


def trace_features(predictor: PausePredictor, trace: Trace) -> NDArray[np.float64]:
    """Features of every pause of a trace, in order, shape ``[num_pauses, NUM_PAUSE_FEATURES]``."""
    called = np.flatnonzero(np.isfinite(trace.pause_s))
    statistics = predictor.statistics_of(trace.tools)
    return _features(trace, called, statistics, predictor.floor_s)


def class_chances(predictor: PausePredictor, trace: Trace) -> NDArray[np.float64]:
    """What it says of every pause of a trace, in order, shape ``[num_pauses, num_classes]``."""
    features = trace_features(predictor, trace)
    chances = np.zeros((len(features), predictor.num_classes))
    chances_matrix(predictor.trees, features, chances)
    return chances


def _features(
    trace: Trace,
    called: NDArray[np.int64],
    statistics: NDArray[np.float64],
    floor_s: float,
) -> NDArray[np.float64]:
    turns = np.stack(
        [
            trace.input_tokens,
            trace.shared_prefix_tokens,
            trace.output_tokens,
            np.where(trace.tool >= 0, trace.tool, len(trace.tools)),
        ]
    ).astype(np.int64)
    session = np.searchsorted(trace.first_turn, called, side="right") - 1
    out = np.zeros((len(called), NUM_PAUSE_FEATURES))
    first_turn = trace.first_turn[session]
    pause_s = np.ascontiguousarray(trace.pause_s, np.float64)
    feature_matrix(turns, pause_s, statistics, floor_s, first_turn, called, out)
    return out


def _tool_statistics(
    tools: tuple[str, ...], tool: NDArray[np.int64], log_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    # Each tool as if it had SHRINKAGE more calls that are like those of all tools.
    every_mean, every_variance = float(log_s.mean()), float(log_s.var())
    rows = np.zeros((len(tools) + 1, NUM_TOOL_STATISTICS))
    for index in range(len(tools)):
        own = log_s[tool == index]
        mean = (own.sum() + SHRINKAGE * every_mean) / (len(own) + SHRINKAGE)
        spread = ((own - mean) ** 2).sum() + SHRINKAGE * every_variance
        rows[index, TOOL_MEAN] = mean
        rows[index, TOOL_SPREAD] = np.sqrt(spread / (len(own) + SHRINKAGE))
        rows[index, TOOL_HUMAN] = tools[index].lower() in HUMAN_TOOLS
    rows[-1, TOOL_MEAN], rows[-1, TOOL_SPREAD] = every_mean, np.sqrt(every_variance)
    return rows


def _class_edges_s(pause_s: NDArray[np.float64]) -> NDArray[np.float64]:
    # Ascending, far enough apart, with enough pauses between any two and beyond the last.
    ascending = np.sort(pause_s)
    time = np.cumsum(ascending)
    by_time = np.searchsorted(time, np.array(TIME_SHARES) * time[-1])
    candidates = np.concatenate([np.quantile(ascending, COUNT_SHARES), ascending[by_time]])
    edges: list[float] = []
    begun = 0
    for edge in np.sort(candidates).tolist():
        below = int(np.searchsorted(ascending, edge, side="left"))
        apart = not edges or edge >= CLASS_RATIO * edges[-1]
        enough = below - begun >= MIN_CLASS_PAUSES and len(ascending) - below >= MIN_CLASS_PAUSES
        if edge > 0 and apart and enough:
            edges.append(edge)
            begun = below
    return np.array(edges)


def _fit_hazards(
    features: NDArray[np.float64],
    pause_s: NDArray[np.float64],
    edges_s: NDArray[np.float64],
    *,
    seed: int,
    num_trees: int,
) -> list[NDArray[np.float64]]:
    # Nodes of all trees, those of a tree behind each other with links relative to its root.
    from sklearn.ensemble import HistGradientBoostingClassifier

    parts = []
    for hazard, edge_s in enumerate(edges_s):
        at_risk = pause_s >= (edges_s[hazard - 1] if hazard > 0 else 0.0)
        booster = HistGradientBoostingClassifier(
            max_iter=num_trees,
            learning_rate=LEARNING_RATE,
            max_leaf_nodes=MAX_LEAVES,
            max_depth=MAX_DEPTH,
            min_samples_leaf=MIN_LEAF_PAUSES,
            l2_regularization=L2,
            early_stopping=False,
            random_state=seed,
        )
        booster.fit(features[at_risk], pause_s[at_risk] >= edge_s)
        parts += booster_nodes(booster, hazard)
    return parts


def booster_nodes(booster: Any, hazard: int) -> list[NDArray[np.float64]]:
    """Trees of a binary booster as nodes, links relative to each root; the first has the bias."""
    parts = []
    for index, (predictor,) in enumerate(booster._predictors):
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        bias = float(booster._baseline_prediction[0, 0]) if index == 0 else 0.0
        parts.append(
            np.column_stack(
                [
                    np.where(leaf, -1, nodes["feature_idx"]),
                    np.where(leaf, hazard, nodes["num_threshold"]),
                    np.where(leaf, -1, nodes["left"]),
                    np.where(leaf, -1, nodes["right"]),
                    np.where(leaf, nodes["value"] + bias, 0.0),
                ]
            ).astype(np.float64)
        )
    return parts


def thread_trees(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """One array of all trees, where every leaf leads to the root of the next tree."""
    trees, root = [np.zeros((0, NODE_COLUMNS))], 0
    for index, part in enumerate(parts):
        nodes = part.copy()
        leaf = nodes[:, FEATURE] < 0
        nodes[~leaf, LEFT] += root
        nodes[~leaf, RIGHT] += root
        root += len(nodes)
        nodes[leaf, LEFT] = root if index + 1 < len(parts) else -1
        trees.append(nodes)
    return np.concatenate(trees)


def _class_tables(
    pause_s: NDArray[np.float64], edges_s: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    alive, excess_s = [], []
    of_class = np.searchsorted(edges_s, pause_s, side="right")
    for index in range(len(edges_s) + 1):
        own = np.sort(pause_s[of_class == index])
        share = 1.0 - np.searchsorted(own, GRID_S, side="right") / len(own)
        left_s = np.maximum(own[:, np.newaxis] - GRID_S, 0.0).mean(axis=0)
        if index == len(edges_s):
            # Beyond the longest pause of all: as long again as it has lasted.
            share = np.maximum(share, LAST_ALIVE)
            left_s = share * mean_residual_s(own)
        alive.append(share)
        excess_s.append(left_s)
    return np.stack(alive), np.stack(excess_s)
