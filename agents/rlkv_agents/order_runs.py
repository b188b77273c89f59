"""Orders of victims for many machines: learnt on each, tried on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlkv_agents.house_rule import House
from rlkv_agents.jobs import Job
from rlkv_agents.machines import worth_learning
from rlkv_agents.order_learning import OrderSettings, learn_order
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.result_cache import ResultFolder, digest
from rlkv_agents.suite import policy_digest, scenario_digest, through_cache
from rlkv_agents.train import OnProgress
from rlkv_agents.tune import validation_latency_s, validation_traces
from rlkv_engine.victim_order import NUM_ORDER_TERMS
from rlkv_envs.scenario import Scenario

#: Validation traces that every order runs on every machine, and that choose a machine's own.
NUM_TRACES = 16
#: Below a build's folder.
LEARNT, TRIED = "learnt", "tried"
_SETTINGS = OrderSettings()


def with_orders(
    policy: AgentPolicy,
    suite: Sequence[Scenario],
    others: Sequence[Scenario],
    seed: int,
    folder: Path,
    num_workers: int,
    on_progress: OnProgress,
) -> AgentPolicy:
    """An advised policy, with advice on orders from these machines; ``folder`` keeps every run.

    Orders are learnt on the suite's machines, and on others whose workload gains by them there, and
    tried on all; always with the policy's network in place, where it answers.
    """
    assert policy.advice is not None
    learnt = _learn(policy, suite, seed, folder, num_workers, on_progress)
    scores = {name: float(each["score"]) for name, each in learnt.items()}
    gaining = worth_learning(others, suite, scores)
    learnt |= _learn(policy, gaining, seed, folder, num_workers, on_progress)
    orders = [each["order"] for each in learnt.values() if each["score"] < 0.0]
    machines = [*suite, *others]
    wanted: dict[tuple[str, ...], tuple[str, Job]] = {
        (machine.name,): (
            digest(_base(policy, machine), orders),
            Job(partial(_tried, machine, policy.on(machine), orders), len(orders)),
        )
        for machine in machines
    }
    cache = ResultFolder(folder / TRIED)
    tried = through_cache(wanted, cache, num_workers, partial(on_progress, "try orders"))
    advice = replace(
        policy.advice,
        orders=np.array([[0.0] * NUM_ORDER_TERMS, *orders]),
        order_regret=np.array([[0.0, *tried[machine.name,]["log_ratio"]] for machine in machines]),
    )
    return replace(policy, advice=advice)


def _learn(
    policy: AgentPolicy,
    machines: Sequence[Scenario],
    seed: int,
    folder: Path,
    num_workers: int,
    on_progress: OnProgress,
) -> dict[str, dict[str, Any]]:
    # By machine: its order, and the order's validation score.
    wanted: dict[tuple[str, ...], tuple[str, Job]] = {
        (machine.name,): (
            digest(_base(policy, machine), asdict(_SETTINGS), seed),
            Job(partial(_learnt, machine, policy.on(machine), seed), _SETTINGS.generations),
        )
        for machine in machines
    }
    cache = ResultFolder(folder / LEARNT)
    found = through_cache(wanted, cache, num_workers, partial(on_progress, "orders"))
    return {machine.name: found[machine.name,] for machine in machines}


def _base(policy: AgentPolicy, machine: Scenario) -> str:
    # What both depend on.
    runs_on = scenario_digest(machine, "validation")
    return digest(runs_on, policy_digest(policy.on(machine), machine), NUM_TRACES)


def _learnt(machine: Scenario, policy: AgentPolicy, seed: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    validation = validation_traces(machine, NUM_TRACES)
    found = learn_order(machine, policy, validation, seed, _SETTINGS)
    return {"order": found.rule.order.tolist(), "score": found.score}


def _tried(
    machine: Scenario, policy: AgentPolicy, orders: Sequence[Sequence[float]]
) -> dict[str, Any]:
    assert isinstance(policy.rule, House)
    traces = validation_traces(machine, NUM_TRACES)
    base = np.log(validation_latency_s(machine, policy, traces))
    ratios = []
    for weights in orders:
        ordered = replace(policy, rule=policy.rule.with_order(np.array(weights)))
        ratios.append(float((np.log(validation_latency_s(machine, ordered, traces)) - base).mean()))
    return {"log_ratio": ratios}
