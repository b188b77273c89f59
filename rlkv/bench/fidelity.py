"""How far the simulator is from the real engine: the same traces on both, by policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np

from rlkv.bench.measure import Size
from rlkv.calibration import Sizes, calibrate, profile_values, with_costs
from rlkv.engine_setup import load
from rlkv.miniature_scenario import miniature_scenario
from rlkv_agents.evaluate import run_policy
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.real_engine import RealRun, play_policy
from rlkv_agents.rules import make_rule
from rlkv_engine.histogram import Histogram
from rlkv_engine.paged.clock import WallClock
from rlkv_engine.paged.cost_fit import COSTS, IterationFit, fit_iterations
from rlkv_engine.paged.measuring import IterationSample
from rlkv_engine.profile import Profile
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario, closed_loop

if TYPE_CHECKING:
    from rlkv_engine.paged.loading import LoadedModel

MAX_CONTEXT_TOKENS = 1024
#: Sessions at a time. In a closed loop latency moves about as much as costs do; in a queue that
#: fills by itself, up to five times as much (docs/engine.md).
NUM_CONCURRENT = 12
#: Device pool as a share of what the sessions in the system want to hold.
MEMORY = 0.6
#: The speed of the machine is measured on training sessions under a rule that is not compared.
AROUND_RULE = "lru-swap"
#: So many simulations whose costs are each off by so much: what is compared is their mean, as one
#: alone depends on chance, and their spread says by how much.
NUM_SIMULATIONS = 8
COST_ERROR_RATIO = 0.01


@dataclass(frozen=True, slots=True)
class _Played:
    """One trace under one policy on the real engine."""

    scenario: Scenario
    policy: AgentPolicy
    trace: Trace
    run: RealRun
    around: list[IterationSample]  #: of training sessions, just before and just after it

    @property
    def name(self) -> str:
        return f"{self.scenario.workload.name}, {self.policy.name}"


def fidelity(size: Size) -> dict[str, Any]:
    """Simulated over real normalized latency, mean and p90, on a profile calibrated just before.

    The real engine waits for pauses in real time. Every trace, a closed loop of sessions, runs on
    both engines under every policy. A machine that others use too is not as fast in one minute as
    in the next: before and after every run some training sessions are played under a rule that is
    not compared. The costs are fitted to the calibration and all of these, and for each run they
    are as much higher or lower as its two neighbours were; nothing is fitted to what is compared.
    The first calibration alone says how long pauses are.

    ``spread`` is how much the simulator differs from itself when its costs are each changed by 1 %
    at random (standard deviation of one simulation): less than that one real run cannot tell.
    ``time_ratio`` is without such chance: the iterations that the real engine ran, by the profile
    over measured.
    """
    loaded = load(size.engine_model)
    sizes = Sizes(num_device_blocks=size.calibration_blocks)
    calibration = calibrate(loaded, sizes, rounds=size.calibration_rounds)
    samples = list(calibration.iterations)
    played: list[_Played] = []
    for workload in size.fidelity_workloads:
        scenario = closed_loop(
            miniature_scenario(
                workload,
                calibration.profile,
                max_context_tokens=min(MAX_CONTEXT_TOKENS, loaded.config.max_position_embeddings),
                num_sessions=size.fidelity_sessions,
                num_concurrent=NUM_CONCURRENT,
                memory=MEMORY,
            ),
            NUM_CONCURRENT,
        )
        policies = [AgentPolicy(rule, make_rule(rule)) for rule in size.fidelity_rules]
        before = _train_iterations(loaded, scenario, size, len(played))
        samples += before
        for seed in range(size.fidelity_seeds):
            trace = scenario.trace(seed, "test")
            for policy in policies:
                run = play_policy(loaded, scenario, policy, trace, WallClock())
                after = _train_iterations(loaded, scenario, size, len(played) + 1)
                played.append(_Played(scenario, policy, trace, run, before + after))
                samples += after
                before = after
    fit = fit_iterations(samples)
    by_name: dict[str, list[_Played]] = {}
    for one in played:
        by_name.setdefault(one.name, []).append(one)
    runs = {name: _compare(those, calibration.profile, fit) for name, those in by_name.items()}
    errors = [abs(run[f"{what}_ratio"] - 1.0) for run in runs.values() for what in ("mean", "p90")]
    spreads = [run[f"{what}_spread"] for run in runs.values() for what in ("mean", "p90")]
    return {
        "figures": {
            "worst_error_ratio": max(errors),
            "mean_error_ratio": sum(errors) / len(errors),
            "worst_spread_ratio": max(spreads),
            "mean_spread_ratio": sum(spreads) / len(spreads),
            "worst_time_error_ratio": max(abs(run["time_ratio"] - 1.0) for run in runs.values()),
            "iteration_error_ratio": fit.error_ratio,
        },
        "measured_on": {
            "model": loaded.name,
            "profile": profile_values(with_costs(calibration.profile, fit)),
            "sessions": size.fidelity_sessions * size.fidelity_seeds,
            "runs": runs,
        },
    }


def _train_iterations(
    loaded: LoadedModel, scenario: Scenario, size: Size, seed: int
) -> list[IterationSample]:
    """Of a few training sessions of a scenario, on the real engine."""
    few = scenario.with_sessions(size.fidelity_around_sessions)
    policy = AgentPolicy(AROUND_RULE, make_rule(AROUND_RULE))
    return play_policy(loaded, few, policy, few.trace(seed, "train"), WallClock()).iterations


def _compare(played: Sequence[_Played], profile: Profile, fit: IterationFit) -> dict[str, float]:
    """Of one policy on one workload, all traces together."""
    real = reduce(add, [one.run.result.normalized_latency_s for one in played])
    slower = [_slower(fit, one.around) for one in played]
    profiles = [with_costs(profile, fit, factor) for factor in slower]
    random = np.random.default_rng(0)
    simulations = [
        _simulate(played, [_changed(profile, random) for profile in profiles])
        for _ in range(NUM_SIMULATIONS)
    ]
    simulated = reduce(add, simulations)
    predicted_s = sum(
        factor * float(fit.predict_s(one.run.iterations).sum())
        for factor, one in zip(slower, played, strict=True)
    )
    took_s = sum(sample.took_s for one in played for sample in one.run.iterations)
    return {
        "real_mean_s": real.mean_s,
        "real_p90_s": _p90_s(real),
        "mean_ratio": simulated.mean_s / real.mean_s,
        "p90_ratio": _p90_s(simulated) / _p90_s(real),
        "mean_spread": _spread([each.mean_s for each in simulations]),
        "p90_spread": _spread([_p90_s(each) for each in simulations]),
        "time_ratio": predicted_s / took_s,
    }


def _simulate(played: Sequence[_Played], profiles: Sequence[Profile]) -> Histogram:
    results = []
    for one, profile in zip(played, profiles, strict=True):
        sizes = one.scenario.profile
        measured = replace(
            profile,
            num_device_blocks=sizes.num_device_blocks,
            num_host_blocks=sizes.num_host_blocks,
        )
        scenario = replace(one.scenario, profile=measured)
        results.append(run_policy(scenario, one.policy, one.trace).normalized_latency_s)
    return reduce(add, results)


def _slower(fit: IterationFit, samples: Sequence[IterationSample]) -> float:
    """How many times as long as by the fit the machine took for these."""
    took_s = np.array([sample.took_s for sample in samples])
    return float(np.mean(took_s / fit.predict_s(samples)))


def _changed(profile: Profile, random: np.random.Generator) -> Profile:
    factors = 1.0 + COST_ERROR_RATIO * random.standard_normal(len(COSTS))
    costs: dict[str, Any] = {
        name: getattr(profile, name) * factor for name, factor in zip(COSTS, factors, strict=True)
    }
    return replace(profile, **costs)


def _p90_s(histogram: Histogram) -> float:
    (p90_s,) = histogram.quantiles_s([0.9])
    return float(p90_s)


def _spread(values: Sequence[float]) -> float:
    return float(np.std(values) / np.mean(values))
