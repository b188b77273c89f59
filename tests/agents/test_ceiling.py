from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlkv_agents import ceiling, planner
from rlkv_agents.ceiling import PLANS, Bases, Effort, find_ceilings, pack, unpack
from rlkv_agents.gap import gap_closed
from rlkv_agents.house_rule import Clairvoyant, House
from rlkv_agents.plan import Plan, replay
from rlkv_agents.planner import Search
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.suite import Setting
from rlkv_engine.errors import InputError
from tests.agents.small_scenario import small_scenario

#: Search compiles loops of its own.
pytestmark = pytest.mark.slow

SMALL = small_scenario(2.0, 20, 100)
HOUSE, SEES = AgentPolicy("house", House()), AgentPolicy("clairvoyant", Clairvoyant())
BASES = Bases(Setting(SMALL, "trained", "default"), (HOUSE, SEES), HOUSE)
SEEDS = (0, 1)
NORMAL = Effort()


def nothing(stage: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Short searches; base, seed and stage of each that is run."""
    ran: list[str] = []
    search = planner.best_plan

    def watched(scenario: Any, base: AgentPolicy, trace: Any, searches: Any, *rest: Any) -> Any:
        ran.append(f"{base.name} {trace.name} {searches[0].name}")
        return search(scenario, base, trace, searches, *rest)

    monkeypatch.setattr(ceiling, "best_plan", watched)
    monkeypatch.setattr(ceiling, "LONG", {0: (), 1: (Search("segments 4", 2.0, 0.5, 4, 0.1),)})
    return ran


def found_in(folder: Path, effort: Effort = NORMAL, **changes: Any) -> Any:
    return find_ceilings([replace(BASES, **changes)], SEEDS, effort, folder, 1, nothing)


def test_the_best_of_all_searches_is_kept_with_its_plan(
    tmp_path: Path, searched: list[str]
) -> None:
    (found,) = found_in(tmp_path).values()
    assert len(found) == len(SEEDS) and len(searched) == 3 * len(SEEDS)
    plans = [json.loads(path.read_text())["result"] for path in (tmp_path / PLANS).iterdir()]
    for seed, each in zip(SEEDS, found, strict=True):
        assert each["latency_s"] == min(each["found"].values())
        assert each["latency_s"] < each["found"]["house, base"]
        # The long search starts from the base whose short one was better.
        short = {name: each["found"][f"{name}, rollout 2"] for name in ("house", "clairvoyant")}
        longer = [name for name in each["found"] if name.endswith("segments 4")]
        assert longer in [[f"{name}, segments 4"] for name in short]
        (plan,) = {p["answers"] for p in plans if p.get("latency_s") == each["latency_s"]}
        base = HOUSE if each["base"] == "house" else SEES
        answers = unpack(plan)
        run = replay(SMALL, Plan(base, answers), SMALL.trace(seed, "test"))
        assert run.mean_latency_s == each["latency_s"]
        assert len(answers) == each["num_answers"]
        assert sum(row["count"] for row in each["differences"]) == each["num_answers"]


def test_what_is_finished_is_not_searched_again(tmp_path: Path, searched: list[str]) -> None:
    first = found_in(tmp_path)
    searched.clear()
    assert found_in(tmp_path) == first
    assert not searched
    # Another base searches for itself alone, another reference is only compared.
    other = AgentPolicy("other", House(guard_pauses=4.0))
    found_in(tmp_path, policies=(HOUSE, SEES, other))
    assert all(line.startswith("other") for line in searched)
    searched.clear()
    found_in(tmp_path, reference=other)
    assert not searched
    found_in(tmp_path, Effort(points=("new",)))
    assert len(searched) == 3 * len(SEEDS)


def test_an_interrupted_search_goes_on(tmp_path: Path, searched: list[str]) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if done >= total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_ceilings([BASES], SEEDS, NORMAL, tmp_path, 1, interrupt)
    assert len(searched) == 2
    found = found_in(tmp_path)
    assert len(searched) == 3 * len(SEEDS)
    assert found == found_in(tmp_path / "another")


def test_fewer_points_find_less(tmp_path: Path, searched: list[str]) -> None:
    del searched
    for points in (("grow",), ("call",)):
        (found,) = found_in(tmp_path, Effort(0, points)).values()
        for each in found:
            changed = {r["point"] for r in each["differences"] if r["rule"] != r["plan"]}
            if each["base"] == "house":
                assert changed <= set(points)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"level": 7}, "--effort must be one of"),
        ({"points": ("new", "old")}, "unknown decision point 'old'"),
        ({"points": ()}, "--only needs"),
    ],
)
def test_efforts_that_there_are_not(wrong: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        Effort(**wrong)


def test_answers_travel_as_text() -> None:
    answers = np.random.default_rng(0).integers(4, size=1000).astype(np.uint8)
    np.testing.assert_array_equal(unpack(pack(answers)), answers)
    assert len(unpack(pack(answers[:0]))) == 0


def test_the_share_of_a_gap() -> None:
    reference, best = [30.0, 40.0], [20.0, 20.0]
    assert gap_closed(best, reference, best) == {"share": 1.0, "ci95": [1.0, 1.0]}
    assert gap_closed(reference, reference, best) == {"share": 0.0, "ci95": [0.0, 0.0]}
    halfway = gap_closed([25.0, 30.0], reference, best)
    assert halfway["share"] == pytest.approx(0.5)
    # On the sum over traces, not the mean of shares; worse than the reference is below 0.
    assert gap_closed([30.0, 30.0], reference, best)["share"] == pytest.approx(1 / 3)
    assert gap_closed([60.0, 40.0], reference, best)["share"] == pytest.approx(-1.0)
    low, high = gap_closed([30.0, 30.0], reference, best)["ci95"]
    assert (low, high) == (0.0, pytest.approx(0.5))
    assert gap_closed(best, best, best) == {"share": None, "ci95": None}
