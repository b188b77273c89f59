"""``rlkv bundle build``: a bundle that loads, a table, JSON alone on standard output."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlkv_agents import universal
from rlkv_agents.bundle import load_bundle
from rlkv_agents.cloning import CloneSettings
from rlkv_agents.rules import House
from rlkv_agents.tune import validation_traces
from tests.agents.small_scenario import small_scenario
from tests.rlkv.command_line import run

SETTINGS = CloneSettings(num_passes=1, traces_per_pass=1, num_per_trace=100, num_epochs=2)


@pytest.fixture(autouse=True)
def small_build(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = replace(small_scenario(), name="small")
    monkeypatch.setattr(House, "grid", {"guard_pauses": (0.0, 1.0)})
    monkeypatch.setattr(universal, "suite_machines", lambda: [machine])
    monkeypatch.setattr(universal, "random_machines", lambda num, seed: [])
    monkeypatch.setattr(universal, "validation_traces", lambda s: validation_traces(s, 2))
    monkeypatch.setattr(universal, "CloneSettings", lambda: SETTINGS)


def test_it_leaves_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "bundle", "build", "--rounds", 0, "--out", tmp_path, "--json")
    document = json.loads(out)
    assert code == 0 and list(document["machines"]) == ["small"]
    loaded = load_bundle(tmp_path / "bundle")
    assert loaded.policy.name == "universal"
    assert loaded.metadata["machines"] == document["machines"]
    code, out, _ = run(capsys, "bundle", "build", "--rounds", 0, "--out", tmp_path)
    assert code == 0 and "small" in out and "house" in out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--rounds", -1), "num_rounds must be 0 or more, got -1"),
        (("--random", -2), "num_random must be 0 or more, got -2"),
        (("--seed", "x"), "unable to parse string as an integer"),
    ],
)
def test_what_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[object, ...], named: str
) -> None:
    code, out, err = run(capsys, "bundle", "build", *options, "--out", tmp_path / "new")
    assert (code, out) == (2, "") and named in err and err.count("\n") == 1
