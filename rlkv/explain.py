"""What a policy learnt: where it departs from its rule, the trees it comes to, what they cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rlkv.report.feature_words import Units
from rlkv.report.tree_text import describe_trees
from rlkv_agents.demonstrations import Teacher, demonstrate
from rlkv_agents.departures import departures, watch_policy
from rlkv_agents.distilling import Distilled, DistilSettings, distil_one, num_steps
from rlkv_agents.evaluate import bootstrap_interval, evaluate, means, paired_ratio
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import constants_of
from rlkv_envs.scenario import Scenario

#: Validation traces on which decisions are looked at.
DECISION_SEEDS = tuple(range(4))
RULE, NETWORK, TREES = "rule", "network", "trees"
#: The rule without the order of victims that was learnt for it.
PLAIN_ORDER = "rule, plain order"


def kind_of(policy: AgentPolicy) -> str:
    """``network``, ``trees`` or ``rule``: what answers decisions."""
    if policy.trees is not None:
        return TREES
    learnt = policy.weights is not None and bool(
        np.any(policy.weights[4]) or np.any(policy.weights[5])
    )
    return NETWORK if learnt else RULE


def _has_order(policy: AgentPolicy) -> bool:
    return isinstance(policy.rule, House) and policy.rule.has_order


def num_explain_steps(policy: AgentPolicy, num_seeds: int, every_depth: bool = True) -> int:
    """How often ``explain`` calls ``on_step``."""
    rules = 2 if _has_order(policy) else 1
    if kind_of(policy) == RULE:
        return 1 + (rules * num_seeds if rules > 1 else 0)
    if kind_of(policy) == TREES:
        return 1 + (rules + 1) * num_seeds
    settings = DistilSettings()
    compared = rules + 1 + (len(settings.depths) if every_depth else 1)
    return 1 + num_steps(settings) + compared * num_seeds


def explain(
    scenario: Scenario,
    policy: AgentPolicy,
    seeds: Sequence[int],
    *,
    seed: int = 0,
    every_depth: bool = True,
    on_step: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], Distilled | None]:
    """An explanation as it stands in a record, and the trees if any were distilled.

    Args:
        scenario: machine, sessions and load of the decisions.
        policy: a network, trees, or a rule.
        seeds: held-out traces on which rule, policy and trees are compared.
        seed: of distilling.
        every_depth: compare the trees of every depth on the held-out traces, not only the chosen.
        on_step: called as work goes on.
    """
    policy = policy.on(scenario)  # the rule that it leaves is the one that is right there
    kind = kind_of(policy)
    shown = watch_policy(scenario, policy, DECISION_SEEDS)
    on_step()
    units = Units(scenario.profile.device_tokens, scenario.table.mean_pause_s)
    document: dict[str, Any] = {
        "policy": policy.name,
        "kind": kind,
        "rule": policy.rule.name,
        "constants": constants_of(policy.rule),
        "mean_pause_s": units.mean_pause_s,
        "device_tokens": units.device_tokens,
        "decision_seeds": list(DECISION_SEEDS),
        "test_seeds": list(seeds),
        "departures": departures(scenario, shown),
    }
    compared = {RULE: AgentPolicy(RULE, policy.rule)}
    if _has_order(policy):
        assert isinstance(policy.rule, House)
        compared[PLAIN_ORDER] = AgentPolicy(PLAIN_ORDER, policy.rule.in_plain_order())
    if kind == RULE or not document["departures"]["departed"]:
        if len(compared) > 1:
            document["latency"] = _latency(scenario, compared, seeds, on_step)
        return document, None
    if kind == TREES:
        document["trees"] = describe_trees(policy, shown, units, own_verbs=True)
        document["latency"] = _latency(scenario, compared | {TREES: policy}, seeds, on_step)
        return document, None
    distilled = distil_one(scenario, policy, seed, on_step)
    along = demonstrate(
        Teacher(scenario, policy),
        distilled.policy,
        [scenario.trace(s, "validation") for s in DECISION_SEEDS],
        obey_teacher=False,
        num_per_trace=8000,
        rng=np.random.default_rng(1),
    )
    compared[NETWORK] = policy
    for depth, tree in distilled.students.items():
        if every_depth or depth == distilled.depth:
            compared[f"{TREES}, depth {depth}"] = tree
    document |= {
        "trees": describe_trees(distilled.policy, along, units, own_verbs=False),
        "depth": distilled.depth,
        "validation": distilled.validation,
        "latency": _latency(scenario, compared, seeds, on_step),
    }
    return document, distilled


def _latency(
    scenario: Scenario,
    compared: dict[str, AgentPolicy],
    seeds: Sequence[int],
    on_step: Callable[[], None],
) -> dict[str, Any]:
    named = [replace(policy, name=name) for name, policy in compared.items()]
    results = evaluate(scenario, named, seeds, on_run=on_step)
    teacher = next(name for name in (NETWORK, TREES, RULE) if name in compared)
    latency = {}
    for name in compared:
        mean_s = means(results[name])
        latency[name] = {
            "mean_s": float(mean_s.mean()),
            "ci95": list(bootstrap_interval(mean_s)),
            "ratio_to_rule": _ratio(*paired_ratio(results[name], results[RULE])),
            "ratio_to_policy": _ratio(*paired_ratio(results[name], results[teacher])),
        }
    return latency


def _ratio(ratio: float, interval: tuple[float, float]) -> dict[str, Any]:
    return {"ratio": ratio, "ci95": list(interval)}
