from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlkv_agents.base_rule import Rule
from rlkv_agents.evaluate import means, run_policy
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import RULES, make_rule
from rlkv_agents.train import START_RULE, tune_all, tuned_policies
from rlkv_agents.tune import (
    NUM_FINALISTS,
    NUM_SCREENING,
    ValidationRuns,
    choose,
    grid_of,
    num_tuning_runs,
    tune,
    validation_traces,
)
from rlkv_envs.scenario import Scenario
from rlkv_envs.traces import rlkv_jsonl
from rlkv_envs.workloads import SPLITS, TraceWorkload, make_workload
from tests.agents.small_scenario import small_scenario
from tests.envs.small_machine import small_profile

SCENARIO = small_scenario(num_sessions=40)


def by_brute_force(scenario: Scenario, name: str, num_traces: int) -> dict[Any, float]:
    """Geometric mean over validation traces of the mean latency, for every combination."""
    traces = validation_traces(scenario, num_traces)
    return {
        tuple(constants.items()): float(
            np.exp(
                np.log(
                    means(
                        [
                            run_policy(scenario, AgentPolicy("x", make_rule(name, constants)), t)
                            for t in traces
                        ]
                    )
                ).mean()
            )
        )
        for constants in grid_of(name)
    }


@pytest.mark.parametrize("name", ["lazy-swap", "ttl", "house", "lru"])
def test_it_picks_the_best_of_the_grid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    grid = {"guard_pauses": (0.0, 1.0, 4.0), "write_through": (0.0, 1.0), "swap_ratio": (0.0, 1e9)}
    monkeypatch.setattr(House, "grid", grid)
    # As many traces as the first round has: both rounds see the same.
    expected = by_brute_force(SCENARIO, name, NUM_SCREENING)
    chosen = tune(SCENARIO, name, validation_traces(SCENARIO, NUM_SCREENING))
    best = min(expected, key=expected.__getitem__)
    assert chosen.validation_s == expected[best] == expected[tuple(chosen.constants.items())]
    assert chosen.rule == make_rule(name, chosen.constants)
    assert chosen.num_candidates == len(expected) == len(grid_of(name))
    assert len(chosen.finalists) == min(NUM_FINALISTS, len(expected))
    scores = [score for _, score in chosen.finalists]
    assert scores == sorted(expected.values())[: len(scores)]
    if name != "lru":
        assert max(expected.values()) > expected[best]


def test_a_grid_is_every_combination() -> None:
    assert grid_of("lru") == [{"slack_ratio": slack} for slack in Rule.grid["slack_ratio"]]
    house = grid_of("house")
    assert len(house) == np.prod([len(values) for values in House.grid.values()])
    assert len({tuple(constants.items()) for constants in house}) == len(house)


@pytest.mark.parametrize("name", ["lru", "lazy-swap", "ttl", "house"])
def test_runs_are_counted(name: str) -> None:
    count = 0

    def on_run() -> None:
        nonlocal count
        count += 1

    tune(SCENARIO, name, validation_traces(SCENARIO, 1), on_run)
    assert count == num_tuning_runs(name)


def test_a_large_grid_is_halved_and_no_run_is_made_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = validation_traces(SCENARIO)
    assert len(grid_of("house")) == 360
    halved = ValidationRuns(SCENARIO, "house", traces)
    choice = choose(halved, grid_of("house"))
    # 360 on one trace, 120 on two, 60 on four, 30 on eight, 15 on sixteen.
    num_traces = sorted(map(len, halved.latency_s.values()))
    assert num_traces == [1] * 240 + [2] * 60 + [4] * 30 + [8] * 15 + [16] * 15
    # A part of the grid takes fewer runs than on its own: those that are there are not repeated.
    pinned = [c for c in grid_of("house") if c["guard_pauses"] == 0.0]
    alone = ValidationRuns(SCENARIO, "house", traces)
    assert choose(halved, pinned) == choose(alone, pinned)
    num_alone = sum(map(len, alone.latency_s.values()))
    assert sum(map(len, halved.latency_s.values())) < sum(num_traces) + num_alone
    monkeypatch.setattr("rlkv_agents.tune.MAX_SCREENED", 1000)
    screened = choose(ValidationRuns(SCENARIO, "house", traces), grid_of("house"))
    assert choice.validation_s <= screened.validation_s


def test_all_rules_together(monkeypatch: pytest.MonkeyPatch) -> None:
    two = validation_traces(SCENARIO, 2)
    monkeypatch.setattr("rlkv_agents.train.validation_traces", lambda scenario: two)
    seen: list[tuple[str, int, int]] = []
    names = ["ttl", "lru", "lazy-swap"]
    tuned = tune_all(SCENARIO, names, lambda *what: seen.append(what))
    total = sum(num_tuning_runs(name) for name in names)
    assert seen == [("tune", i, total) for i in range(total + 1)]
    assert list(tuned) == names
    alone = tune(SCENARIO, "ttl", two)
    assert tuned["ttl"] == {
        "constants": dict(alone.constants),
        "validation_s": alone.validation_s,
        "num_candidates": alone.num_candidates,
    }
    policies = tuned_policies(tuned)
    assert [policy.name for policy in policies] == names
    assert policies[0].rule == alone.rule and policies[0].weights is None
    assert START_RULE in RULES


def replayed(tmp_path: Path) -> Scenario:
    bodies = make_workload("crossover").bodies(np.random.default_rng(0), "train", 60)
    path = tmp_path / "trace.jsonl"
    rlkv_jsonl.write_trace(bodies, path)
    workload = TraceWorkload(rlkv_jsonl.read(path))
    return Scenario("replayed", small_profile(), workload, 1.0, 40)


@pytest.mark.parametrize("kind", ["crossover", "infercept", "chat-bursts", "trace"])
def test_training_validation_and_test_share_no_root(tmp_path: Path, kind: str) -> None:
    scenario = replayed(tmp_path) if kind == "trace" else small_scenario(workload=kind)
    roots = {
        split: {root for seed in range(6) for root in scenario.trace(seed, split).roots}
        for split in SPLITS
    }
    for split, other in (("train", "validation"), ("validation", "test"), ("train", "test")):
        assert roots[split] and not roots[split] & roots[other]  # type: ignore[index]


def test_tuning_looks_at_validation_sessions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = []
    draw = Scenario.trace

    def watched(self: Scenario, seed: int, split: Any) -> Any:
        splits.append(split)
        return draw(self, seed, split)

    monkeypatch.setattr(Scenario, "trace", watched)
    tune(SCENARIO, "lru")
    assert set(splits) == {"validation"}
