"""How the context of a coding agent grows, is compacted, and loses its valid prefix.

Arrays are ``[num_sessions, longest session]``; turns past a session's end are unused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_envs.workloads.quantile_table import QuantileTable


def entry_quantiles(table: Mapping[str, Any], entry: Mapping[str, Any]) -> QuantileTable:
    """The distribution of an entry of the parameter table."""
    return QuantileTable.from_entry(entry, table["levels"])


def by_kind(
    table: Mapping[str, Any],
    entries: Mapping[str, Any],
    scores: NDArray[np.float64],
    kind: NDArray[np.int64],
    names: tuple[str, ...],
) -> NDArray[np.float64]:
    """Values at normal scores, each from the distribution of its kind; the scores' shape."""
    values = np.empty(scores.shape)
    for index, name in enumerate(names):
        of_kind = kind == index
        values[of_kind] = entry_quantiles(table, entries[name]).at(scores[of_kind])
    return values


def draw_contexts(
    rng: np.random.Generator,
    table: Mapping[str, Any],
    first_prompt: NDArray[np.int64],
    kind: NDArray[np.int64],
    names: tuple[str, ...],
    pause_s: NDArray[np.float64],
    output_tokens: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Prompts and how much of each is unchanged: growth, compaction and lost prefixes."""
    growth = table["growth_tokens"]
    scores = rng.standard_normal(kind.shape)
    grown = by_kind(table, growth, scores, kind, names)
    grown_early = entry_quantiles(table, growth["early"]).at(scores)
    shrinks = rng.random(kind.shape) < growth["shrink_ratio"]
    shrunk = entry_quantiles(table, growth["shrink"]).at(scores)

    lost = table["invalidation"]
    pause_bin = np.searchsorted(lost["by_pause_s"], pause_s, side="right") - 1
    loses = rng.random(kind.shape) < np.asarray(lost["ratio"])[pause_bin]
    kept_score = rng.standard_normal((len(first_prompt), 1))  # one system prompt a session
    kept = np.broadcast_to(entry_quantiles(table, lost["kept_tokens"]).at(kept_score), kind.shape)
    kept = np.where(rng.random(kind.shape) < lost["nothing_kept_ratio"], 0, kept)

    compaction = table["compaction"]
    summary = entry_quantiles(table, compaction["shrink"]).at(rng.standard_normal(kind.shape))
    summary = np.minimum(summary, compaction["shrink"]["values"][-1])
    compact_draw = rng.random(kind.shape)

    input_tokens = np.zeros(kind.shape, np.int64)
    shared = np.zeros(kind.shape, np.int64)
    input_tokens[:, 0] = first_prompt
    for turn in range(1, kind.shape[1]):
        before = input_tokens[:, turn - 1]
        context = before + output_tokens[:, turn - 1]
        is_early = before < growth["early_below_tokens"]
        change = np.where(is_early, grown_early[:, turn - 1], grown[:, turn - 1])
        change = np.where(shrinks[:, turn - 1], -shrunk[:, turn - 1], change)
        context_bin = np.searchsorted(compaction["by_context_tokens"], before, side="right") - 1
        compacts = compact_draw[:, turn - 1] < np.asarray(compaction["ratio"])[context_bin]
        prompt = np.where(compacts, summary[:, turn - 1] * before, context + change)
        prompt = np.maximum(np.rint(prompt).astype(np.int64), np.minimum(before, 1000))
        is_lost = compacts | loses[:, turn - 1]
        unchanged = np.minimum(before, np.where(is_lost, kept[:, turn - 1], before))
        input_tokens[:, turn] = prompt
        shared[:, turn] = np.minimum(unchanged, prompt)
    return input_tokens, shared
