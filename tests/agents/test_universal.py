"""One policy for many machines: what is built is kept, chosen on validation, and distilled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlkv_agents import universal
from rlkv_agents.cloning import CloneSettings
from rlkv_agents.forked_learner import ForkedLearner
from rlkv_agents.machines import HOST_FACTORS, LOADS, random_machines, suite_machines
from rlkv_agents.rules import House
from rlkv_agents.tune import validation_traces
from rlkv_agents.universal import UniversalConfig, build_universal
from rlkv_engine.errors import InputError
from rlkv_envs.scenario import KNEES, PRESETS
from tests.agents.small_scenario import small_scenario

CONFIG = UniversalConfig(
    num_random=1,
    num_rounds=2,
    settings=CloneSettings(num_passes=1, traces_per_pass=1, num_per_trace=200, num_epochs=5),
)
MACHINES = [
    replace(small_scenario(), name="small"),
    replace(small_scenario(num_host_blocks=20), name="other"),
]


@pytest.fixture(autouse=True)
def small_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(House, "grid", {"guard_pauses": (0.0, 1.0), "write_through": (0.0, 1.0)})
    monkeypatch.setattr(universal, "suite_machines", lambda: MACHINES[:1])
    monkeypatch.setattr(universal, "random_machines", lambda num, seed: MACHINES[1:][:num])
    monkeypatch.setattr(universal, "validation_traces", lambda s: validation_traces(s, 2))
    monkeypatch.setattr(ForkedLearner, "traces_per_round", 1)
    monkeypatch.setattr(ForkedLearner, "forks_per_trace", 40)


def test_a_build_that_goes_on_gives_what_one_run_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_universal(CONFIG, tmp_path)
    assert set(first.ratios) == {"small", "other"}
    assert first.ratios["other"][:2] == ("house", 1.0)  # random machines have no specialist
    assert all(np.isfinite(student) for _, _, student in first.ratios.values())

    def again(*args: object) -> None:
        raise AssertionError("done already")

    monkeypatch.setattr(universal, "tune", again)
    monkeypatch.setattr(universal, "ForkedLearner", again)
    second = build_universal(CONFIG, tmp_path)
    assert first.ratios == second.ratios
    assert first.policy.weights is not None and second.policy.weights is not None
    for ours, theirs in zip(first.policy.weights, second.policy.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_other_machines_are_tuned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, num_rounds=0)
    build_universal(config, tmp_path)
    busier = MACHINES[0].at_rate(2.0)
    monkeypatch.setattr(universal, "suite_machines", lambda: [busier])
    tuned = []
    from rlkv_agents.tune import tune as real

    def count(scenario: object, name: str) -> object:
        tuned.append(scenario)
        return real(busier, name)

    monkeypatch.setattr(universal, "tune", count)
    build_universal(config, tmp_path)
    assert tuned == [busier]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "small.json").write_text("{")
    with pytest.raises(InputError, match=r"small\.json: damaged"):
        build_universal(CONFIG, tmp_path)


@pytest.mark.parametrize("field", ["seed", "num_random", "num_rounds"])
def test_numbers_that_cannot_be(field: str) -> None:
    options: dict[str, Any] = {field: -1}
    with pytest.raises(InputError, match=f"{field} must be 0 or more, got -1"):
        UniversalConfig(**options)


def test_random_machines_are_of_one_seed_and_within_bounds() -> None:
    machines = random_machines(9, 3)
    assert [m.rate_per_s for m in machines] == [m.rate_per_s for m in random_machines(9, 3)]
    assert [m.rate_per_s for m in machines] != [m.rate_per_s for m in random_machines(9, 4)]
    assert len({m.workload.name for m in machines}) == 3
    for machine, knee in zip(machines, ["coding", "crossover", "infercept"] * 3, strict=True):
        load = machine.rate_per_s / KNEES[knee].rate_per_s
        assert LOADS[0] - 1e-3 <= load <= LOADS[1] + 1e-3
        host = machine.profile.num_host_blocks / machine.profile.num_device_blocks
        assert host <= HOST_FACTORS[1] * 1.01


def test_the_suites_unseen_machines_are_not_among_them() -> None:
    names = {machine.name for machine in suite_machines()}
    assert len(names) == 8 and all(PRESETS[name].suite == "trained" for name in names)
