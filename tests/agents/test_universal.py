"""One policy for many machines: what is built is kept, chosen on validation, and distilled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlkv_agents import (
    abstention,
    advice,
    advice_runs,
    machines,
    order_runs,
    specialists,
    universal,
)
from rlkv_agents.advice import CONSTANTS
from rlkv_agents.cloning import CloneSettings
from rlkv_agents.forked_learner import ForkedLearner
from rlkv_agents.house_rule import House
from rlkv_agents.machines import HOST_FACTORS, LOADS, random_machines, suite_machines
from rlkv_agents.order_learning import OrderSettings
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.specialists import ADVISED, TUNED, Training, carried
from rlkv_agents.universal import UniversalConfig, build_universal
from rlkv_agents.universal import UniversalResult as Built
from rlkv_engine.errors import InputError
from rlkv_envs.scenario import KNEES, PRESETS
from tests.agents.small_scenario import random_weights, small_scenario

CONFIG = UniversalConfig(
    num_random=1,
    num_held_out=1,
    clip_rounds=2,
    kl_rounds=1,
    settings=CloneSettings(num_passes=1, traces_per_pass=1, num_per_trace=200, num_epochs=5),
)
MACHINES = [
    replace(small_scenario(), name="small"),
    replace(small_scenario(num_host_blocks=20), name="other"),
    replace(small_scenario(num_host_blocks=60), name="held out"),
]


@pytest.fixture(scope="module", autouse=True)
def small_build() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(House, "grid", {"guard_pauses": (0.0, 1.0), "write_through": (0.0, 1.0)})
        patch.setattr(advice, "GRID", {"slack_ratio": (0.0, 0.003), "guard_pauses": (0.0, 1.0)})
        patch.setattr(universal, "suite_machines", lambda: MACHINES[:1])
        patch.setattr(
            universal, "random_machines", lambda num, seed: MACHINES[1 + seed : 2 + seed][:num]
        )
        for module in (abstention, advice_runs, order_runs, specialists):
            patch.setattr(module, "NUM_TRACES", 2)
        settings = OrderSettings(generations=2, num_pairs=2, traces_per_generation=1)
        patch.setattr(order_runs, "_SETTINGS", settings)
        patch.setattr(ForkedLearner, "traces_per_round", 1)
        patch.setattr(ForkedLearner, "forks_per_trace", 40)
        yield


@pytest.fixture(scope="module")
def built(small_build: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Built]:
    folder = tmp_path_factory.mktemp("universal")
    return folder, build_universal(CONFIG, folder)


def test_a_build_that_goes_on_gives_what_one_run_gives(
    built: tuple[Path, Built], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, first = built
    assert [machine.name for machine in first.machines] == ["small", "other"]
    assert set(first.teachers["small"]["ratios"]) == {ADVISED, TUNED, "small"}
    # No specialist of its own, but the other machine's was tried.
    assert set(first.teachers["other"]["ratios"]) == {ADVISED, TUNED, "small"}
    known = first.policy.advice
    assert known is not None and len(known.machines) == 2
    assert known.order_regret.shape == (2, len(known.orders))
    assert not known.orders[0].any() and not known.order_regret[:, 0].any()
    assert first.abstention.machines == ["held out"]
    assert first.policy.min_confidence == first.abstention.min_confidence

    def again(*args: object) -> None:
        raise AssertionError("done already")

    monkeypatch.setattr(universal, "learn_specialist", again)
    monkeypatch.setattr(universal, "choose_teacher", again)
    monkeypatch.setattr(advice_runs, "_latencies", again)
    monkeypatch.setattr(order_runs, "_learnt", again)
    monkeypatch.setattr(order_runs, "_tried", again)
    second = build_universal(CONFIG, folder)
    assert first.teachers == second.teachers
    assert first.policy.weights is not None and second.policy.weights is not None
    for ours, theirs in zip(first.policy.weights, second.policy.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("worth", "learns"), [(-1.0, True), (1.0, False)])
def test_random_machines_learn_an_order_where_the_suite_gains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worth: float, learns: bool
) -> None:
    monkeypatch.setattr(machines, "WORTH_LEARNING", worth)
    build_universal(CONFIG, tmp_path)
    assert (tmp_path / "orders/learnt/other.json").exists() is learns


def test_rules_tuned_for_the_machines_are_advised_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = 3.0  # not in the grid that all machines try
    monkeypatch.setattr(House, "grid", {"guard_pauses": (odd,), "write_through": (0.0, 1.0)})
    known = build_universal(CONFIG, tmp_path).policy.advice
    assert known is not None
    assert odd in known.constants[:, CONSTANTS.index("guard_pauses")]
    assert known.regret.shape == (2, len(known.constants))


@pytest.mark.parametrize(
    ("curve", "rounds"),
    [
        ([0.9, 0.8, 0.85, 0.7, 0.9], 5),  # better now and then: to the end
        ([0.8, 0.9, 0.85, 0.9, 0.7], 4),  # three in a row are no better
        ([1.3, 1.1, 1.2, 0.9, 0.8], 3),  # not past the rule halfway
        ([1.3, 1.2, 1.1, 0.9, 0.8], 5),  # nor this one, but it is on its way
    ],
)
def test_learning_ends_where_nothing_more_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, curve: list[float], rounds: int
) -> None:
    ratios = iter([1.0, *curve])
    monkeypatch.setattr(specialists, "VALIDATE_EVERY", 1)
    monkeypatch.setattr(
        specialists, "validation_latency_s", lambda *_: np.array([1.0, 1.0]) * next(ratios)
    )
    start = AgentPolicy("start", House())
    training = Training(len(curve), 0, 0)
    found = specialists.learn_specialist(MACHINES[0], start, training, tmp_path)
    assert found["curves"]["clip"] == pytest.approx(curve[:rounds])
    assert found["score"] == pytest.approx(min(0.0, np.log(min(curve[:rounds]))))


def test_a_specialist_that_began_by_discarding_does_so_elsewhere() -> None:
    here, there = House(slack_ratio=0.0), House(guard_pauses=2.0, write_through=1.0)
    for rule, expected in ((here.discarding(), there.discarding()), (here, there)):
        learnt = AgentPolicy("learned", rule, random_weights(), 1.5)
        elsewhere = carried(learnt, AgentPolicy("advised", there))
        assert elsewhere.rule == expected and elsewhere.weights is not None


def test_the_teacher_is_who_validates_best(built: tuple[Path, Built]) -> None:
    for row in built[1].teachers.values():
        best = min(row["ratios"], key=lambda name: row["ratios"][name])
        # The advised rule stays unless another is better by more than its own uncertainty.
        assert row["teacher"] in (best, ADVISED)
        assert row["ratios"][row["teacher"]] <= row["ratios"][ADVISED]


def test_the_rule_under_it_is_advised_for_the_machine(built: tuple[Path, Built]) -> None:
    policy = built[1].policy
    assert policy.advice is not None
    for machine in MACHINES:
        bound = policy.on(machine)
        assert bound.advice is None
        assert bound.rule == policy.advice.rule_for(machine.profile, machine.table)


@pytest.mark.parametrize("field", ["seed", "num_random", "num_held_out", "clip_rounds"])
def test_numbers_that_cannot_be(field: str) -> None:
    options: dict[str, Any] = {field: -1}
    with pytest.raises(InputError, match=f"{field} must be 0 or more, got -1"):
        UniversalConfig(**options)


def test_random_machines_are_of_one_seed_and_within_bounds() -> None:
    found = random_machines(9, 3)
    assert [m.rate_per_s for m in found] == [m.rate_per_s for m in random_machines(9, 3)]
    assert [m.rate_per_s for m in found] != [m.rate_per_s for m in random_machines(9, 4)]
    assert len({m.workload.name for m in found}) == 3
    for machine, knee in zip(found, ["coding", "crossover", "infercept"] * 3, strict=True):
        load = machine.rate_per_s / KNEES[knee].rate_per_s
        assert LOADS[0] - 1e-3 <= load <= LOADS[1] + 1e-3
        host = machine.profile.num_host_blocks / machine.profile.num_device_blocks
        assert host <= HOST_FACTORS[1] * 1.01


def test_the_suites_unseen_machines_are_not_among_them() -> None:
    names = {machine.name for machine in suite_machines()}
    assert len(names) == 8 and all(PRESETS[name].suite == "trained" for name in names)
