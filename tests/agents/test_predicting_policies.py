"""A policy says which table of pauses its engines run with, and everything that runs one obeys."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rlkv_agents.bundle import METADATA_FILE, load_bundle, save_bundle
from rlkv_agents.decision_map import decision_map
from rlkv_agents.demonstrations import Teacher, demonstrate
from rlkv_agents.evaluate import run_policy
from rlkv_agents.forking import fork_rollouts
from rlkv_agents.policy import AgentPolicy, from_tensors, to_tensors
from rlkv_agents.rules import make_rule
from rlkv_agents.suite import policy_digest
from rlkv_agents.timeline import memory_timeline
from rlkv_agents.tune import ValidationRuns
from rlkv_engine.errors import InputError
from rlkv_engine.state import NEW
from rlkv_envs.workloads import TraceWorkload
from tests.agents.small_scenario import random_network, small_scenario
from tests.envs.paused_sessions import paused_sessions

SCENARIO = replace(small_scenario(), workload=TraceWorkload(paused_sessions(1000)), rate_per_s=0.6)
BY_TOOL = AgentPolicy("house", make_rule("house"))
BY_CLASS = replace(BY_TOOL, predicts_pauses=True)


def test_a_policy_names_its_table() -> None:
    assert BY_TOOL.table(SCENARIO) is SCENARIO.table
    assert BY_CLASS.table(SCENARIO) is SCENARIO.predicted_table
    assert BY_CLASS.table(SCENARIO).classes is not None


@pytest.mark.parametrize("rule", ["house", "ttl"])
def test_a_run_goes_by_its_policys_table(rule: str) -> None:
    # TTL: leases by class are read as leases by tool are.
    by_tool = AgentPolicy(rule, make_rule(rule))
    trace = SCENARIO.trace(0, "test")
    said = [
        run_policy(SCENARIO, policy, trace).mean_latency_s
        for policy in (by_tool, replace(by_tool, predicts_pauses=True))
    ]
    assert said[0] != said[1]


def test_tuning_judges_the_policy_that_it_is_given() -> None:
    traces = [SCENARIO.trace(seed, "validation") for seed in range(3)]
    as_policy = partial(AgentPolicy, predicts_pauses=True)
    scores = [
        ValidationRuns(SCENARIO, "house", traces, as_policy=each).score({}, 3)
        for each in (AgentPolicy, as_policy)
    ]
    runs = [run_policy(SCENARIO, BY_CLASS, trace).mean_latency_s for trace in traces]
    assert scores[1] == pytest.approx(np.exp(np.log(runs).mean()))
    assert scores[0] != scores[1]


def test_forks_demonstrations_timelines_and_maps_go_by_it() -> None:
    trace = SCENARIO.trace(0, "train")
    network = random_network()
    seen = []
    for policy in (network, replace(network, predicts_pauses=True)):
        forks, _ = fork_rollouts(
            SCENARIO,
            policy,
            [trace],
            forks_per_trace=5,
            horizon_s=5.0,
            rng=np.random.default_rng(0),
        )
        demos = demonstrate(
            Teacher(SCENARIO, BY_TOOL),
            policy,
            [trace],
            obey_teacher=True,
            num_per_trace=40,
            rng=np.random.default_rng(0),
        )
        timeline = memory_timeline(SCENARIO, policy, 0, num_samples=20)
        drawn = decision_map(SCENARIO, policy, NEW, seeds=[0])
        assert drawn is not None
        seen.append((forks.observation[0], demos.observation[0], timeline["paused"], drawn["met"]))
    for by_tool, by_class in zip(*seen, strict=True):
        assert not np.array_equal(by_tool, by_class)


def test_the_digest_of_a_result_tells_them_apart() -> None:
    assert policy_digest(BY_TOOL, SCENARIO) != policy_digest(BY_CLASS, SCENARIO)


def test_a_bundle_carries_it(tmp_path: Path) -> None:
    save_bundle(tmp_path, replace(random_network(), predicts_pauses=True), {})
    assert load_bundle(tmp_path).policy.predicts_pauses
    document = json.loads((tmp_path / METADATA_FILE).read_text())
    (tmp_path / METADATA_FILE).write_text(json.dumps(document | {"predicts_pauses": 1}))
    with pytest.raises(InputError, match="must be true or false"):
        load_bundle(tmp_path)
    del document["predicts_pauses"]
    (tmp_path / METADATA_FILE).write_text(json.dumps(document))
    assert not load_bundle(tmp_path).policy.predicts_pauses
    save_bundle(tmp_path, random_network(), {})
    assert "predicts_pauses" not in json.loads((tmp_path / METADATA_FILE).read_text())


def test_tensors_put_together_again_predict_as_before() -> None:
    tensors = to_tensors(BY_CLASS)
    assert from_tensors("x", BY_CLASS.rule, 1.0, tensors, predicts_pauses=True).predicts_pauses
    assert not from_tensors("x", BY_CLASS.rule, 1.0, tensors).predicts_pauses
