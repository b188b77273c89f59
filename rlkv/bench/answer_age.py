"""What the age of answers costs: the shipped policy asked ahead, with answers iterations late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlkv.asked_engine import rule_of
from rlkv.bench.measure import Size
from rlkv_agents.bundle import load_bundle
from rlkv_agents.evaluate import means, paired_ratio, run_policy
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.shipped import UNIVERSAL
from rlkv_engine.ahead import AheadOptions
from rlkv_envs.metrics import RunResult
from rlkv_envs.scenario import Scenario, load_scenario
from rlkv_service.asking.aged_runs import AgedRun, run_aged
from rlkv_service.asking.ahead import asked_share
from rlkv_service.schema import LOCAL_REASONS, Reason


def answer_age(size: Size) -> dict[str, Any]:
    """Latency with answers of each age over that of the policy in process, on the same traces."""
    options = AheadOptions()
    figures: dict[str, float] = {}
    scenarios: dict[str, Any] = {}
    policy = load_bundle(UNIVERSAL).policy
    for name in size.age_scenarios:
        scenario = load_scenario(name)
        if size.age_sessions is not None:
            scenario = scenario.with_sessions(size.age_sessions)
        measured = _scenario(scenario, policy, size, options)
        scenarios[name] = measured
        key = name.replace("-", "_")
        figures[f"{key}_rule_over_in_process"] = measured["rule"]["over_in_process"]
        for age, entry in measured["ages"].items():
            figures[f"{key}_age_{age}_over_in_process"] = entry["over_in_process"]
    return {
        "figures": figures,
        "measured_on": {
            "policy": policy.name,
            "seeds": size.age_seeds,
            "high_water": options.high_water,
            "every": options.every,
            "max_candidates": options.max_candidates,
            "max_age": options.max_age,
            "scenarios": scenarios,
        },
    }


def _scenario(
    scenario: Scenario, policy: AgentPolicy, size: Size, options: AheadOptions
) -> dict[str, Any]:
    traces = [scenario.trace(seed, "test") for seed in range(size.age_seeds)]
    in_process = [run_policy(scenario, policy, trace) for trace in traces]
    alone = rule_of(policy, scenario)
    by_rule = [run_policy(scenario, alone, trace) for trace in traces]
    ages: dict[str, Any] = {}
    for age in size.answer_ages:
        aged = [run_aged(scenario, policy, trace, age, options) for trace in traces]
        ages[str(age)] = _compared([run.result for run in aged], in_process, by_rule) | _shares(
            aged
        )
    return {
        "sessions": scenario.num_sessions,
        "in_process": {"mean_s": float(means(in_process).mean())},
        "rule": _compared(by_rule, in_process, by_rule),
        "ages": ages,
    }


def _compared(
    runs: Sequence[RunResult], in_process: Sequence[RunResult], by_rule: Sequence[RunResult]
) -> dict[str, Any]:
    ratio, interval = paired_ratio(runs, in_process)
    to_rule, rule_interval = paired_ratio(runs, by_rule)
    return {
        "mean_s": float(means(runs).mean()),
        "over_in_process": ratio,
        "ci95": list(interval),
        "over_rule": to_rule,
        "over_rule_ci95": list(rule_interval),
    }


def _shares(aged: Sequence[AgedRun]) -> dict[str, Any]:
    # Of all decisions: answered by who was asked, or why the engine's rule decided.
    total = sum(run.reasons.total() for run in aged)
    counts = {reason: sum(run.reasons[reason] for run in aged) for reason in LOCAL_REASONS}
    answered = sum(asked_share(run.reasons) * run.reasons.total() for run in aged)
    return {
        "decisions": total,
        "answered_share": answered / max(total, 1),
        **{
            f"{reason.name.lower()}_share": counts[reason] / max(total, 1)
            for reason in (Reason.LATE, Reason.NOT_ASKED, Reason.STALE)
        },
    }
