"""Fits a predictor of pauses, and the table of its classes, on training sessions.

Boosted trees (scikit-learn) learn the log pause and the pause within the horizon; one small tree
learns to say what they say, and its leaves are the classes. How many there are is chosen on
sessions that were held back; where none is surely better than the tool alone, the tool it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.estimates import (
    GRID_S,
    HORIZON_PAUSES,
    PauseTable,
    fit_pause_table,
    mean_residual_s,
)
from rlkv_engine.pause_features import NUM_TOOL_STATISTICS, TOOL_HUMAN, TOOL_MEAN, TOOL_SPREAD
from rlkv_engine.pause_predictor import NODE_COLUMNS, PausePredictor
from rlkv_engine.trace import Trace
from rlkv_envs.workloads import SPLITS, Split, TraceWorkload, Workload

#: Sessions and seed from which the pause statistics of a workload are taken.
TABLE_SESSIONS = 2000
TABLE_SEED = 20_240_201
#: Names of tools that stand for a person, or their last parts.
HUMAN_TOOLS = frozenset({"human", "user", "chat", "chatbot"})
#: Calls worth of all tools' statistics that a tool's own are mixed with, and calls worth of its
#: tools' pauses that a class is.
SHRINKAGE = 30.0
#: Numbers of classes that are tried.
NUM_CLASSES = (4, 8, 16, 32, 64)
#: Pauses that a class needs, and that a predictor needs in all; more than MAX_PAUSES take too long.
MIN_CLASS_PAUSES = 60
MIN_PAUSES = 400
MAX_PAUSES = 20_000
#: Parts of the sessions that are held back in turn.
NUM_FOLDS = 2


def whole_sessions(workload: Workload, split: Split) -> Trace:
    """Every recorded session of a split once and uncut; of a generator, as many as for a table."""
    rng = np.random.default_rng(TABLE_SEED)
    if isinstance(workload, TraceWorkload):
        whole = replace(workload, max_turns=None)
        return whole.bodies(rng, split, len(whole.pool(split)))
    # Another split of a generator is another stream: the same one would be the same sessions.
    if split != "train":
        rng = rng.spawn(len(SPLITS))[SPLITS.index(split)]
    return workload.bodies(rng, split, TABLE_SESSIONS)


@lru_cache(maxsize=16)
def predicted_table(workload: Workload) -> PauseTable:
    """The table of a workload by predicted class, fitted once in a process (about 2 s)."""
    usual = fit_pause_table(
        workload.bodies(np.random.default_rng(TABLE_SEED), "train", TABLE_SESSIONS)
    )
    return fit_predicted_table(whole_sessions(workload, "train"), usual)


def fit_predicted_table(trace: Trace, usual: PauseTable, *, seed: int = 0) -> PauseTable:
    """A predictor and the rows of its classes, from the pauses of (training) sessions.

    Args:
        trace: the sessions.
        usual: the table by tool: it gives the mean pause and the row of all pauses, and is returned
            where the predictor knows nothing more, or there are too few pauses to learn from.
        seed: the same one gives the same table.
    """
    called = np.flatnonzero(np.isfinite(trace.pause_s))
    if len(called) < MIN_PAUSES:
        return usual
    if len(called) > MAX_PAUSES:
        rng = np.random.default_rng(seed)
        called = np.sort(rng.choice(called, MAX_PAUSES, replace=False))
    samples = _Samples(trace, called, usual.mean_pause_s)
    gain = np.zeros((len(NUM_CLASSES), len(called)))
    for fold in range(NUM_FOLDS):
        held_out = samples.fold == fold
        gain[:, held_out] = _held_out_gains(samples, held_out, seed)
    best = int(np.argmax(gain.mean(axis=1)))
    # A gain within its own uncertainty is none.
    if gain[best].mean() <= 2.0 * gain[best].std() / np.sqrt(len(called)):
        return usual
    every = np.ones(len(called), np.bool_)
    (tree,) = samples.fit_trees(every, [NUM_CLASSES[best]], seed)
    classes = tree.apply(samples.features)
    leaves = np.unique(classes)
    of_class = np.searchsorted(leaves, classes)
    rows = [_class_row(samples, of_class == k, every) for k in range(len(leaves))]
    predictor = replace(
        samples.reader,
        nodes=_nodes(tree, leaves),
        metadata={
            "trace": trace.name,
            "num_sessions": trace.num_sessions,
            "num_pauses": len(called),
            "mean_pause_s": usual.mean_pause_s,
            "seed": seed,
            "log_likelihood_over_by_tool": {
                str(num): float(mean)
                for num, mean in zip(NUM_CLASSES, gain.mean(axis=1), strict=True)
            },
        },
    )
    residual_s, mean_s, quantiles_s = zip(*rows, strict=True)
    return PauseTable(
        tools=usual.tools,
        residual_s=np.stack([*residual_s, usual.residual_s[-1]]),
        mean_s=np.array([*mean_s, usual.mean_s[-1]]),
        quantiles_s=np.stack([*quantiles_s, usual.quantiles_s[-1]]),
        classes=predictor,
    )


class _Samples:
    """Pauses to learn from, in the order of the trace, and what is known of each."""

    def __init__(self, trace: Trace, called: NDArray[np.int64], mean_pause_s: float) -> None:
        self.pause_s = trace.pause_s[called]
        self.tool = trace.tool[called]
        self.num_tools = len(trace.tools)
        self.horizon_s = HORIZON_PAUSES * mean_pause_s
        # Below the first percentile differences are those of the clock that recorded them.
        floor_s = max(float(np.percentile(self.pause_s, 1)), float(GRID_S[1]))
        self.log_s = np.log(np.maximum(self.pause_s, floor_s))
        statistics = _tool_statistics(trace.tools, self.tool, self.log_s)
        #: A predictor without a tree yet, which reads features.
        self.reader = PausePredictor(trace.tools, statistics, floor_s, np.zeros((0, NODE_COLUMNS)))
        self.features = self.reader.features(trace)[called]
        # What a root's sessions have in common must not be learnt and judged on.
        root = np.unique(np.asarray(trace.roots), return_inverse=True)[1]
        session = np.searchsorted(trace.first_turn, called, side="right") - 1
        self.fold = root[session] % NUM_FOLDS

    def fit_trees(self, chosen: NDArray[np.bool_], sizes: Sequence[int], seed: int) -> list[Any]:
        """A tree of each size that says what boosted trees on the chosen pauses say."""
        from sklearn.ensemble import HistGradientBoostingRegressor
        from sklearn.tree import DecisionTreeRegressor

        x = self.features[chosen]
        said = []
        for target in (self.log_s, np.minimum(self.pause_s, self.horizon_s)):
            booster = HistGradientBoostingRegressor(
                max_iter=40,
                max_depth=5,
                min_samples_leaf=40,
                l2_regularization=1.0,
                early_stopping=False,
                random_state=seed,
            ).fit(x, target[chosen])
            said.append(booster.predict(x) / max(float(target[chosen].std()), 1e-9))
        return [
            DecisionTreeRegressor(
                max_leaf_nodes=size, min_samples_leaf=MIN_CLASS_PAUSES, random_state=seed
            ).fit(x, np.stack(said, axis=1))
            for size in sizes
        ]


def _held_out_gains(
    samples: _Samples, held_out: NDArray[np.bool_], seed: int
) -> NDArray[np.float64]:
    # Log-likelihood of each held-out pause with each number of classes, less that by tool:
    # [len(NUM_CLASSES), num_pauses].
    known = ~held_out
    by_tool = _log_likelihood(samples, known, samples.tool)
    gains = [
        _log_likelihood(samples, known, tree.apply(samples.features)) - by_tool
        for tree in samples.fit_trees(known, NUM_CLASSES, seed)
    ]
    return np.stack(gains)


def _log_likelihood(
    samples: _Samples, known: NDArray[np.bool_], label: NDArray[np.int64]
) -> NDArray[np.float64]:
    # Of the pauses that are not known: each falls into one of the intervals between grid points,
    # as the known ones of its label do.
    bin_of = np.searchsorted(GRID_S, samples.pause_s)
    out = np.zeros(len(known))
    for each in np.unique(label):
        own = label == each
        weight = _weight(samples, known & own, known)
        share = np.bincount(bin_of, weight, len(GRID_S) + 1) + 1e-3
        out[own] = np.log(share / share.sum())[bin_of[own]]
    return out[~known]


def _weight(
    samples: _Samples, chosen: NDArray[np.bool_], known: NDArray[np.bool_]
) -> NDArray[np.float64]:
    # How much each known pause counts in a class of the chosen ones: these, and SHRINKAGE more,
    # nine tenths of them like those of the tools it holds, the others like any.
    num = samples.num_tools
    shares = np.bincount(samples.tool[chosen], minlength=num) / max(int(chosen.sum()), 1)
    of_tool = np.maximum(np.bincount(samples.tool[known], minlength=num), 1)
    like = (0.9 * shares / of_tool)[samples.tool] + 0.1 / known.sum()
    weight: NDArray[np.float64] = (chosen + SHRINKAGE * like) * known
    return weight


def _class_row(
    samples: _Samples, chosen: NDArray[np.bool_], known: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    # Residual life, mean and quantiles of a class.
    weight = _weight(samples, chosen, known)
    order = np.argsort(samples.pause_s, kind="stable")
    ascending_s, weight = samples.pause_s[order], weight[order]
    level = np.cumsum(weight) / weight.sum()
    at = np.minimum(np.searchsorted(level, np.arange(101) / 100.0), len(level) - 1)
    mean_s = float(ascending_s @ weight / weight.sum())
    return mean_residual_s(ascending_s, samples.horizon_s, weight), mean_s, ascending_s[at]


def _tool_statistics(
    tools: tuple[str, ...], tool: NDArray[np.int64], log_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    # Each tool as if it had SHRINKAGE more calls that are like those of all tools.
    every_mean, every_variance = float(log_s.mean()), float(log_s.var())
    rows = np.zeros((len(tools) + 1, NUM_TOOL_STATISTICS))
    for index, name in enumerate(tools):
        own = log_s[tool == index]
        mean = (own.sum() + SHRINKAGE * every_mean) / (len(own) + SHRINKAGE)
        spread = ((own - mean) ** 2).sum() + SHRINKAGE * every_variance
        rows[index, TOOL_MEAN] = mean
        rows[index, TOOL_SPREAD] = np.sqrt(spread / (len(own) + SHRINKAGE))
        rows[index, TOOL_HUMAN] = name.lower().split("/")[-1] in HUMAN_TOOLS
    rows[-1, TOOL_MEAN], rows[-1, TOOL_SPREAD] = every_mean, np.sqrt(every_variance)
    return rows


def _nodes(tree: Any, leaves: NDArray[np.int64]) -> NDArray[np.float64]:
    # scikit-learn's arrays as ours; it compares 32-bit features, at most the threshold to the left.
    inner = tree.tree_
    is_leaf = inner.children_left < 0
    index = np.arange(inner.node_count)
    return np.column_stack(
        [
            np.where(is_leaf, -1, inner.feature),
            np.where(is_leaf, 0.0, inner.threshold),
            np.where(is_leaf, np.searchsorted(leaves, index), inner.children_left),
            np.where(is_leaf, -1, inner.children_right),
        ]
    ).astype(np.float64)
