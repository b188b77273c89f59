from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlkv import references
from rlkv.provenance import commit
from rlkv.references import STORED, measure_references, store, stored_references
from rlkv.report.record import read_record
from rlkv_agents.es_learner import EvolutionLearner, EvolutionSettings
from rlkv_agents.gae_learner import GaeLearner
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.run_settings import run_settings
from rlkv_agents.train import RECIPES
from rlkv_envs.scenario import load_scenario
from rlkv_envs.traces.whole_file import write_files
from tests.rlkv.command_line import make_quick, run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)
    monkeypatch.setattr(EvolutionLearner, "settings", EvolutionSettings(num_pairs=1))
    monkeypatch.setattr(EvolutionLearner, "traces_per_round", 1)
    for name, value in (
        ("num_envs", 4), ("num_steps", 16), ("rollouts_per_round", 1), ("traces_per_round", 2)
    ):  # fmt: skip
        monkeypatch.setattr(GaeLearner, name, value)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_other_recipes_are_trained_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_record(record: dict[str, Any], folder: Path, beside: dict[str, bytes]) -> None:
        write_files(folder, beside | {"record.json": json.dumps(record).encode()})

    # Drawing takes longer than training here.
    monkeypatch.setattr("rlkv.report.write.write_report", write_record)
    options = {
        "--scenario": "crossover-slow",
        "--rounds": 1,
        "--order-rounds": 1,
        "--seeds": 1,
        "--sessions": 120,
    }
    words = [word for option in options.items() for word in option]
    out_folder = tmp_path / "run"
    code, out, _ = run(capsys, "train", *words, "--references", "--out", out_folder, "--json")
    assert code == 0
    record = json.loads(out)
    assert set(record["reference_curves"]) == {"ppo", "es"}
    own = record["learning_curve"]
    for entry in record["reference_curves"].values():
        assert entry["earlier"] is False and entry["commit"] == record["commit"]
        first, *_, last = entry["curve"]
        assert (first["steps"], first["validation_s"] > 0) == (0, True)
        assert last["cpu_s"] >= own[-1]["cpu_s"] and last["steps"] > 0
        assert sum(point["chosen"] for point in entry["curve"]) == 1
    assert read_record(tmp_path / "run")["reference_curves"] == record["reference_curves"]


@pytest.mark.usefixtures("quick")
def test_stored_curves_are_found_by_runs_on_the_same_scenario_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = load_scenario("crossover-slow").with_sessions(120)
    store(scenario, tmp_path / STORED, 1e-6)
    stored = json.loads((tmp_path / STORED).read_text())
    assert set(stored["curves"]) == set(RECIPES)
    monkeypatch.setattr(references, "files", lambda package: tmp_path)
    for recipe in RECIPES:
        found = stored_references(run_settings(scenario, recipe, seed=5))
        assert set(found) == set(RECIPES) - {recipe}
        for name, entry in found.items():
            assert len(entry["curve"]) > 1
            assert entry["earlier"] is True and entry["commit"] == commit()
            assert entry["curve"] == stored["curves"][name]["curve"]
    settings = run_settings(scenario, "ppo", 0)
    for name in ("scenario", "rate_per_s", "num_sessions", "profile_sha256", "sessions_sha256"):
        assert stored_references({**settings, name: "other"}) == {}


@pytest.mark.usefixtures("quick")
def test_a_recipe_that_cannot_learn_there_says_why() -> None:
    idle = load_scenario("crossover-slow").with_sessions(2)
    start = AgentPolicy("house", House())
    found = measure_references(idle, start, ["ppo"], 0, 1.0, lambda *progress: None)
    assert found["ppo"]["curve"] == [] and "memory never runs short" in found["ppo"]["reason"]


def test_the_stored_curves_are_whole() -> None:
    stored: Any = json.loads((Path(references.__file__).parent / STORED).read_text())
    assert set(stored["curves"]) == set(RECIPES)
    assert stored["settings"]["scenario"] == "crossover-slow"
    for entry in stored["curves"].values():
        assert entry["commit"] and entry["machine"]
        times = [point["cpu_s"] for point in entry["curve"]]
        assert times == sorted(times) and times[0] == 0.0 and len(times) > 3
        assert all(0 < point["validation_s"] < 1 for point in entry["curve"])
