"""Figures of a run of traffic on a vLLM server, and of repetitions of it."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlkv.bench.intervals import mean_interval, ratio_interval
from rlkv.real_vllm.player import Played, TurnSeen
from rlkv.real_vllm.server import BLOCK_SIZE

#: Figures of a run whose ratio to another policy's makes sense.
TIMES = (
    "agent_latency_s", "agent_turn_p50_s", "agent_turn_p90_s", "resume_p50_s", "resume_p90_s",
    "stranger_turn_p50_s", "stranger_turn_p90_s", "total_s",
)  # fmt: skip


def run_figures(played: Played) -> dict[str, float]:
    """What one run was like for agents and strangers.

    Returns:
        ``cached_share``: of the prompts of agents that came back, what was not computed again.
        ``agent_latency_s``: mean over agents of the time outside their tools, per token that they
        generated. ``agent_turn``, ``stranger_turn``: due to done. ``resume``: a tool's return to
        the next token. ``total_s``: of the whole run.
    """
    agents = [turn for turn in played.turns if turn.is_agent]
    back = [turn for turn in agents if turn.turn > 0]
    by_session: dict[str, list[TurnSeen]] = defaultdict(list)
    for turn in agents:
        by_session[turn.session].append(turn)
    figures = {
        "cached_share": sum(turn.cached_tokens for turn in back)
        / sum(turn.prompt_tokens for turn in back),
        "agent_latency_s": statistics.fmean(
            sum(turn.took_s for turn in turns) / sum(turn.output_tokens for turn in turns)
            for turns in by_session.values()
        ),
    }
    strangers = [turn.took_s for turn in played.turns if not turn.is_agent]
    for name, values in (
        ("agent_turn", [turn.took_s for turn in agents]),
        ("resume", [turn.first_token_s for turn in back]),
        ("stranger_turn", strangers),
    ):
        p50, p90 = np.percentile(values, [50.0, 90.0])
        figures |= {f"{name}_p50_s": float(p50), f"{name}_p90_s": float(p90)}
    return figures | {"total_s": played.took_s}


def working_set_ratio(played: Played, num_blocks: int) -> float:
    """What the agents' contexts took, in time's mean and if all had been kept, over the pool."""
    held = sum(
        -(-(turn.prompt_tokens + turn.output_tokens) // BLOCK_SIZE) * (turn.took_s + turn.pause_s)
        for turn in played.turns
        if turn.is_agent
    )
    return held / played.took_s / num_blocks


def compared(
    runs: Sequence[Mapping[str, float]], against: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Means of figures over runs, and ratios to another policy's runs on the same traffic."""
    result: dict[str, Any] = {}
    for figure in runs[0]:
        values = [run[figure] for run in runs]
        mean, interval = mean_interval(values)
        result[figure] = {"mean": mean, "ci95": interval and list(interval), "runs": values}
        if figure in TIMES and runs is not against:
            ratio, interval = ratio_interval(values, [run[figure] for run in against])
            result[figure] |= {"over_lru": ratio, "over_lru_ci95": interval and list(interval)}
    return result
