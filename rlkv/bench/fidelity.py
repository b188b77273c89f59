"""How far the simulator is from the real engine: the same traces on both, by policy."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

from rlkv.bench.measure import Size
from rlkv.calibration import Sizes, calibrate, measure_again, profile_values, with_costs
from rlkv.engine_setup import load
from rlkv.miniature_scenario import miniature_scenario
from rlkv_agents.evaluate import run_policy
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.real_engine import play_policy
from rlkv_agents.rules import make_rule
from rlkv_engine.histogram import Histogram
from rlkv_engine.paged.clock import WallClock
from rlkv_engine.paged.cost_fit import fit_iterations
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario

MAX_CONTEXT_TOKENS = 1024
NUM_CONCURRENT = 8.0
#: Device pool as a share of what the sessions in the system want to hold.
MEMORY = 0.4


def fidelity(size: Size) -> dict[str, Any]:
    """Simulated over real normalized latency, mean and p90, on a profile calibrated just before.

    The real engine waits for pauses in real time. Every trace runs on both engines under every
    policy. A machine that others use too is not as fast in one minute as in the next: after every
    run the loads of the calibration are measured again, and the simulator has the profile of all
    these minutes; the first calibration only says how long pauses are.
    """
    loaded = load(size.engine_model)
    calibration = calibrate(loaded, Sizes(), rounds=size.calibration_rounds)
    samples = list(calibration.iterations)
    played: list[tuple[Scenario, AgentPolicy, Trace, Histogram]] = []
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
        for seed in range(size.fidelity_seeds):
            trace = scenario.trace(seed, "test")
            for policy in policies:
                run = play_policy(loaded, scenario, policy, trace, WallClock())
                played.append((scenario, policy, trace, run.result.normalized_latency_s))
                samples += measure_again(loaded, Sizes(), seed=len(played))
    fit = fit_iterations(samples)
    profile = with_costs(calibration.profile, fit)
    real: dict[str, list[Histogram]] = {}
    simulated: dict[str, list[Histogram]] = {}
    for scenario, policy, trace, latency_s in played:
        name = f"{scenario.workload.name}, {policy.name}"
        sizes = scenario.profile
        measured = replace(
            profile,
            num_device_blocks=sizes.num_device_blocks,
            num_host_blocks=sizes.num_host_blocks,
        )
        scenario = replace(scenario, profile=measured)
        real.setdefault(name, []).append(latency_s)
        again = run_policy(scenario, policy, trace)
        simulated.setdefault(name, []).append(again.normalized_latency_s)
    runs = {name: _compare(reduce(add, simulated[name]), reduce(add, real[name])) for name in real}
    errors = [
        abs(run[ratio] - 1.0) for run in runs.values() for ratio in ("mean_ratio", "p90_ratio")
    ]
    return {
        "figures": {
            "worst_error_ratio": max(errors),
            "mean_error_ratio": sum(errors) / len(errors),
            "iteration_error_ratio": fit.error_ratio,
        },
        "measured_on": {
            "model": loaded.name,
            "profile": profile_values(profile),
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
