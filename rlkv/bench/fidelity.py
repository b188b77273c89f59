"""How far the simulator is from the real engine: the same traces on both, by policy."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

from rlkv.bench.measure import Size
from rlkv.calibration import Sizes, calibrate, profile_values
from rlkv.engine_setup import load
from rlkv.miniature_scenario import miniature_scenario
from rlkv_agents.evaluate import run_policy
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.real_engine import play_policy
from rlkv_agents.rules import make_rule
from rlkv_engine.histogram import Histogram
from rlkv_engine.paged.clock import WallClock

MAX_CONTEXT_TOKENS = 1024
NUM_CONCURRENT = 8.0
#: Device pool as a share of what the sessions in the system want to hold.
MEMORY = 0.4


def fidelity(size: Size) -> dict[str, Any]:
    """Simulated over real normalized latency, mean and p90, on a profile calibrated just before.

    The real engine waits for pauses in real time. Every trace runs on both engines under every
    policy, the traces one after the other, so that a moment of other load on the machine meets all
    policies alike.
    """
    loaded = load(size.engine_model)
    calibration = calibrate(loaded, Sizes(), rounds=size.calibration_rounds)
    runs: dict[str, dict[str, float]] = {}
    for workload in size.fidelity_workloads:
        scenario = miniature_scenario(
            workload,
            calibration.profile,
            max_context_tokens=min(MAX_CONTEXT_TOKENS, loaded.config.max_position_embeddings),
            num_sessions=size.fidelity_sessions,
            num_concurrent=NUM_CONCURRENT,
            memory=MEMORY,
        )
        policies = [AgentPolicy(rule, make_rule(rule)) for rule in size.fidelity_rules]
        real: dict[str, list[Histogram]] = {rule: [] for rule in size.fidelity_rules}
        simulated: dict[str, list[Histogram]] = {rule: [] for rule in size.fidelity_rules}
        for seed in range(size.fidelity_seeds):
            trace = scenario.trace(seed, "test")
            for policy in policies:
                played = play_policy(loaded, scenario, policy, trace, WallClock())
                real[policy.name].append(played.result.normalized_latency_s)
                run = run_policy(scenario, policy, trace)
                simulated[policy.name].append(run.normalized_latency_s)
        for rule in size.fidelity_rules:
            runs[f"{workload}, {rule}"] = _compare(
                reduce(add, simulated[rule]), reduce(add, real[rule])
            )
    errors = [
        abs(run[ratio] - 1.0) for run in runs.values() for ratio in ("mean_ratio", "p90_ratio")
    ]
    return {
        "figures": {
            "worst_error_ratio": max(errors),
            "mean_error_ratio": sum(errors) / len(errors),
            "iteration_error_ratio": calibration.iteration_fit.error_ratio,
        },
        "measured_on": {
            "model": loaded.name,
            "profile": profile_values(calibration.profile),
            "sessions": size.fidelity_sessions * size.fidelity_seeds,
            "runs": runs,
        },
    }


def _compare(simulated: Histogram, real: Histogram) -> dict[str, float]:
    (simulated_p90,), (real_p90,) = simulated.quantiles_s([0.9]), real.quantiles_s([0.9])
    return {
        "real_mean_s": real.mean_s,
        "real_p90_s": real_p90,
        "mean_ratio": simulated.mean_s / real.mean_s,
        "p90_ratio": simulated_p90 / real_p90,
    }
