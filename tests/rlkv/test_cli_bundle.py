"""``rlkv bundle build``: a bundle that loads, a table, JSON alone on standard output."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlkv_agents import abstention, advice_runs, reliability, specialists, universal
from rlkv_agents.bundle import load_bundle, save_bundle
from rlkv_agents.cloning import CloneSettings
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_service.deciding.confidence import Calibration
from tests.agents.small_scenario import random_network, small_scenario
from tests.rlkv.command_line import run

SETTINGS = CloneSettings(num_passes=1, traces_per_pass=1, num_per_trace=100, num_epochs=2)


@pytest.fixture(autouse=True)
def small_build(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = replace(small_scenario(), name="small")
    monkeypatch.setattr(House, "grid", {"guard_pauses": (0.0, 1.0)})
    monkeypatch.setattr(universal, "suite_machines", lambda: [machine])
    monkeypatch.setattr(universal, "random_machines", lambda num, seed: [])
    for module in (abstention, advice_runs, specialists):
        monkeypatch.setattr(module, "NUM_TRACES", 2)
    monkeypatch.setattr(universal, "CloneSettings", lambda: SETTINGS)
    monkeypatch.setattr(reliability, "NUM_TRACES", 1)
    monkeypatch.setattr(reliability, "FORKS_PER_TRACE", 20)


def test_it_leaves_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "bundle", "build", "--rounds", 0, "--out", tmp_path, "--json")
    document = json.loads(out)
    assert code == 0 and list(document["machines"]) == ["small"]
    loaded = load_bundle(tmp_path / "bundle")
    assert loaded.policy.name == "universal"
    assert loaded.metadata["machines"] == document["machines"]
    code, out, _ = run(capsys, "bundle", "build", "--rounds", 0, "--out", tmp_path)
    assert code == 0 and "small" in out and "advised rule" in out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--rounds", -1), "clip_rounds must be 0 or more, got -1"),
        (("--random", -2), "num_random must be 0 or more, got -2"),
        (("--seed", "x"), "unable to parse string as an integer"),
        (("--workers", 0), "--workers must be 1 or more, got 0"),
    ],
)
def test_what_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[object, ...], named: str
) -> None:
    code, out, err = run(capsys, "bundle", "build", *options, "--out", tmp_path / "new")
    assert (code, out) == (2, "") and named in err and err.count("\n") == 1


@pytest.mark.pictures
def test_confidence_is_calibrated_on_departures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_bundle(tmp_path / "bundle", random_network(), {})
    code, out, _ = run(
        capsys, "bundle", "calibrate", "--bundle", tmp_path / "bundle", "--scenarios",
        "crossover-slow", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0 and "departures" in out
    record = json.loads((tmp_path / "out" / "calibration.json").read_bytes())
    rows = record["groups"]["trained"]
    assert sum(row["num"] for row in rows) == record["scenarios"]["crossover-slow"]["departures"]
    assert (tmp_path / "out" / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert "reliability" not in load_bundle(tmp_path / "bundle").metadata


def test_the_table_is_kept_in_the_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_bundle(tmp_path, random_network(), {"seed": 3})
    before = load_bundle(tmp_path).metadata
    code, out, _ = run(
        capsys, "bundle", "calibrate", "--bundle", tmp_path, "--scenarios", "crossover-slow",
        "--store", "--json",
    )  # fmt: skip
    assert code == 0
    after = load_bundle(tmp_path).metadata
    assert after["reliability"] == json.loads(out)["groups"]["trained"]
    assert {name: after[name] for name in before} == before
    assert not Calibration(after).is_raw


def test_only_a_network_says_how_sure_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.agents.small_trees import one_split

    save_bundle(tmp_path, AgentPolicy("trees", House(), trees=one_split()), {})
    code, out, err = run(capsys, "bundle", "calibrate", "--bundle", tmp_path)
    assert (code, out) == (2, "") and "no network in it" in err
