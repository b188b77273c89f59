"""Records: every policy on the same held-out traces of a scenario, and what pictures need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from rlkv.provenance import command, commit, machine
from rlkv_agents.decision_map import decision_map
from rlkv_agents.evaluate import evaluate, paired_ratio, run_policy, summarize
from rlkv_agents.load_sweep import load_sweep
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import constants_of
from rlkv_agents.timeline import memory_timeline
from rlkv_agents.train import ORDERED, START_RULE
from rlkv_engine.config import EngineConfig
from rlkv_engine.errors import InputError
from rlkv_engine.state import NEW, RESUME
from rlkv_engine.trace import Trace
from rlkv_envs.metrics import RunResult
from rlkv_envs.scenario import Scenario
from rlkv_envs.workloads import Split
from rlkv_service.asking.ahead import asked_share
from rlkv_service.asking.in_place import InPlaceAsking, run_asked

RECORD_VERSION = 1
#: Paired test seeds of an evaluation.
DEFAULT_SEEDS = tuple(range(16))
#: Decision points with a map each.
_POINTS = {"NEW": NEW, "RESUME": RESUME}


def evaluation_record(
    scenario: Scenario,
    policies: Sequence[AgentPolicy],
    *,
    learned: str | None,
    seeds: Sequence[int] = DEFAULT_SEEDS,
    split: Split = "test",
    on_run: Callable[[], None] = lambda: None,
    asked: Mapping[str, InPlaceAsking] = MappingProxyType({}),
) -> dict[str, Any]:
    """Every policy on the traces of every seed, paired, against the best rule.

    Of policies in ``asked`` only the rule is in the engine: somebody else decides.

    Raises:
        InputError: no seeds, or no rule among the policies.
    """
    if not seeds:
        raise InputError("at least one seed is needed")
    run = partial(_run, asked) if asked else run_policy
    results = evaluate(scenario, policies, seeds, split, on_run=on_run, run=run)
    entries: dict[str, Any] = {}
    for policy in policies:
        entries[policy.name] = summarize(results[policy.name]) | {
            "rule": policy.rule.name,
            "source": "learned" if policy.name in (learned, ORDERED) else policy.rule.source,
            "constants": constants_of(policy.rule),
            "sees_future": policy.sees_future,
        }
        if policy.name in asked:
            entries[policy.name] |= {"source": "asked"} | _decided(asked[policy.name])
    others = {learned, ORDERED, *asked}
    rules = [p.name for p in policies if not p.sees_future and p.name not in others]
    if not rules:
        raise InputError("at least one rule that does not see the future is needed")
    best = min(rules, key=lambda name: entries[name]["normalized_latency_s"]["mean"])
    for policy in policies:
        ratio, interval = paired_ratio(results[policy.name], results[best])
        entries[policy.name]["ratio_to_best_rule"] = {"ratio": ratio, "ci95": list(interval)}
    return {
        **record_head(scenario, split, seeds),
        "policies": entries,
        "learned": learned,
        "best_rule": best,
        "commit": commit(),
        "command": command(),
        "machine": machine(),
    }


def _run(
    asked: Mapping[str, InPlaceAsking],
    scenario: Scenario,
    policy: AgentPolicy,
    trace: Trace,
    config: EngineConfig | None,
) -> RunResult:
    if policy.name not in asked:
        return run_policy(scenario, policy, trace, config)
    return run_asked(scenario, policy, trace, asked[policy.name], config)


def _decided(asking: InPlaceAsking) -> dict[str, Any]:
    reasons = sorted(asking.reasons.items())
    return {
        "answered_share": asked_share(asking.reasons),
        "decisions": {reason.name.lower(): num for reason, num in reasons},
        "policy_version": asking.policy_version,
    }


def picture_data(
    scenario: Scenario,
    policies: Sequence[AgentPolicy],
    record: dict[str, Any],
    on_run: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Load sweep, decision maps and memory timelines for the pictures of a record."""
    shown = {record["best_rule"], record["learned"]} - {None}
    by_name = {policy.name: policy for policy in policies}
    maps = {
        point: {
            name: decision_map(scenario, by_name[name], kind)
            for name in sorted(shown | {START_RULE})
            if not _answers_eagerly(by_name[name])
        }
        for point, kind in _POINTS.items()
    }
    return {
        "load_sweep": load_sweep(scenario, policies, seeds=record["seeds"][:4], on_run=on_run),
        "decision_maps": maps,
        "timeline": {
            name: memory_timeline(scenario, by_name[name], seed=record["seeds"][0])
            for name in sorted(shown)
        },
    }


def _answers_eagerly(policy: AgentPolicy) -> bool:
    # Rules that free everything at the call are hardly ever asked again: there is no map to draw.
    return policy.rule.name in {"swap", "discard"} or policy.rule.name.startswith("min-waste")


def record_head(scenario: Scenario, split: Split, seeds: Sequence[int]) -> dict[str, Any]:
    """What was run, as every record begins."""
    return {
        "version": RECORD_VERSION,
        "scenario": scenario.name,
        "profile": scenario.profile.name,
        "workload": scenario.workload.name,
        "rate_per_s": scenario.rate_per_s,
        "num_sessions": scenario.num_sessions,
        "split": split,
        "seeds": list(seeds),
    }


def held_out_record(seeds: Sequence[int], **found: Any) -> dict[str, Any]:
    """What was found on held-out traces of several scenarios, with where it comes from."""
    return {
        "version": RECORD_VERSION,
        "split": "test",
        "seeds": list(seeds),
        **found,
        "commit": commit(),
        "command": command(),
        "machine": machine(),
    }
