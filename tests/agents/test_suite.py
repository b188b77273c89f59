from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlkv_agents import suite as suite_module
from rlkv_agents.ablation import ABLATIONS, FULL, ablate
from rlkv_agents.arrival_variants import concurrent_sessions, with_arrivals
from rlkv_agents.bundle import save_bundle
from rlkv_agents.contestants import ALL, contestant, contestants
from rlkv_agents.evaluate import run_policy, summarize
from rlkv_agents.house_rule import House
from rlkv_agents.jobs import Job, run_jobs
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.result_cache import ResultFile, ResultFolder
from rlkv_agents.rules import RULES, Lru, make_rule
from rlkv_agents.suite import (
    PARTS,
    TUNED,
    Evaluation,
    Setting,
    contest,
    evaluate_all,
    suite_names,
    tune_settings,
)
from rlkv_agents.suite_regret import suite_regret
from rlkv_agents.tune import NUM_VALIDATION, tune, validation_latency_s
from rlkv_engine.config import EngineConfig
from rlkv_engine.errors import InputError, RlkvError
from rlkv_envs.scenario import PRESETS, Scenario
from rlkv_envs.traces import rlkv_jsonl
from rlkv_envs.workloads import make_workload
from tests.agents.small_scenario import random_network, small_scenario

SMALL = small_scenario(num_sessions=20)
SETTING = Setting(SMALL, "trained", "default")
UNSEEN = Setting(replace(small_scenario(2.0, 20, 100), name="other"), "unseen", "default")
SEEDS = (0, 1)


def nothing(stage: str, done: int, total: int) -> None:
    pass


def evaluation(name: str = "lru", setting: Setting = SETTING, **constants: float) -> Evaluation:
    key = (setting.scenario.name, name, setting.arrivals)
    return Evaluation(key, setting, AgentPolicy(name, make_rule(name, constants)))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the policies of every run on held-out traces."""
    names: list[str] = []

    def watched(scenario: Scenario, policy: AgentPolicy, *args: Any) -> Any:
        names.append(policy.name)
        return run_policy(scenario, policy, *args)

    monkeypatch.setattr(suite_module, "run_policy", watched)
    return names


@pytest.fixture
def short_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"slack_ratio": (0.0, 0.012), "swap_ratio": (0.0, 1e9), "guard_pauses": (0.0, 0.5),
            "write_through": (0.0, 1.0)}  # fmt: skip
    monkeypatch.setattr(House, "grid", grid)
    for module in ("rlkv_agents.tune", "rlkv_agents.ablation"):
        monkeypatch.setattr(
            f"{module}.validation_traces",
            lambda scenario: [scenario.trace(seed, "validation") for seed in range(2)],
        )


# -- who is compared ---------------------------------------------------------------------


def test_a_rule_is_tuned_unless_its_constants_are_given() -> None:
    assert contestant("lru").policy is None
    fixed = contestant("house:fixed").policy
    assert fixed is not None and (fixed.name, fixed.rule) == ("house:fixed", House())
    some = contestant("house:guard_pauses=2+swap_ratio=0").policy
    assert some is not None and some.rule == House(guard_pauses=2.0, swap_ratio=0.0)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("nope", "unknown rule 'nope'"),
        ("nope:fixed", "unknown rule 'nope'"),
        ("house:plain", "'plain' is not 'fixed'"),
        ("house:guard_pauses=much", "'guard_pauses=much'"),
        ("lru:guard_pauses=1", "guard_pauses"),
        ("", "unknown rule ''"),
    ],
)
def test_policies_that_there_are_not(said: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        contestants(said)


def test_the_reference_is_always_there_and_nobody_twice(tmp_path: Path) -> None:
    assert [each.name for each in contestants("lru,house,lru")] == ["house", "lru"]
    assert [each.name for each in contestants("all")] == [
        "house", *(name for name in ALL if name != "house")
    ]  # fmt: skip
    assert set(ALL) == {*RULES, "house:fixed"}
    for folder in ("a", "b"):
        save_bundle(tmp_path / folder, random_network(), {})
    found = contestants("lru", [tmp_path / "a", tmp_path / "b"])
    assert [each.name for each in found[2:]] == [
        f"learned:{tmp_path / 'a'}",
        f"learned:{tmp_path / 'b'}",
    ]
    assert all(each.is_learned and each.policy for each in found[2:])
    assert contestants("lru", [tmp_path / "a"])[-1].name == "learned"
    with pytest.raises(InputError, match="named twice"):
        contestants("lru", [tmp_path / "a", tmp_path / "a"])


def test_scenarios_by_suite_or_by_name() -> None:
    trained, unseen = suite_names("trained"), suite_names("unseen")
    assert len(trained) == 8 and len(unseen) == 4
    assert suite_names() == trained + unseen
    assert all(PRESETS[name].suite == "unseen" for name in unseen)
    assert suite_names("coding,unseen-infercept-half-host,coding") == [
        "coding",
        "unseen-infercept-half-host",
    ]
    for said, named in (("nope", "unknown scenario 'nope'"), ("chat-bursts", "not in the suite")):
        with pytest.raises(InputError, match=named):
            suite_names(said)


# -- arrivals ----------------------------------------------------------------------------


def test_bursts_have_the_same_sessions_and_the_same_mean_rate() -> None:
    scenario = small_scenario(num_sessions=4000)
    plain, bursty = (
        with_arrivals(scenario, kind).trace(0, "test") for kind in ("default", "bursts")
    )
    np.testing.assert_array_equal(plain.output_tokens, bursty.output_tokens)
    gaps_s = np.diff(bursty.arrival_s)
    assert gaps_s.mean() == pytest.approx(1.0 / scenario.rate_per_s, rel=0.15)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(4.0, rel=0.15)
    assert with_arrivals(scenario, "default") is scenario


def test_a_closed_loop_has_the_sessions_of_littles_law() -> None:
    scenario = small_scenario(num_sessions=60)
    closed = with_arrivals(scenario, "closed").trace(0, "test")
    assert closed.num_concurrent == concurrent_sessions(scenario)
    # Nearly all of a session's time on an empty engine are its pauses.
    trace = scenario.trace(0, "validation")
    least = scenario.rate_per_s * float(np.mean(trace.total_pause_s))
    assert least < closed.num_concurrent < 1.5 * least
    doubled = concurrent_sessions(scenario.at_rate(2.0 * scenario.rate_per_s))
    assert doubled == pytest.approx(2 * closed.num_concurrent, abs=1)


def test_stamps_of_a_trace_are_stretched_to_the_rate(tmp_path: Path) -> None:
    sessions = make_workload("crossover").bodies(np.random.default_rng(0), "train", 20)
    stamped = sessions.with_arrivals(np.linspace(0.0, 1.0, 20) ** 2, 0)
    rlkv_jsonl.write_trace(stamped, tmp_path / "trace.jsonl")
    trace = with_arrivals(SMALL, "stamps", tmp_path / "trace.jsonl").trace(0, "test")
    assert trace.num_sessions == 20
    assert (trace.num_sessions - 1) / trace.arrival_s[-1] == pytest.approx(SMALL.rate_per_s)
    np.testing.assert_allclose(trace.arrival_s / trace.arrival_s[-1], stamped.arrival_s, atol=1e-5)
    for kind, path in (("stamps", None), ("bursts", tmp_path / "trace.jsonl"), ("nope", None)):
        with pytest.raises(InputError, match="arrivals"):
            with_arrivals(SMALL, kind, path)


# -- what is kept ------------------------------------------------------------------------


def test_a_result_counts_for_its_inputs_alone(tmp_path: Path) -> None:
    for cache in (ResultFolder(tmp_path / "parts"), ResultFile(tmp_path / "all.json")):
        cache.put(("a", "house:fixed"), "digest", {"x": 1})
        assert cache.get(("a", "house:fixed"), "digest") == {"x": 1}
        assert cache.get(("a", "house:fixed"), "other") is None
        assert cache.get(("a", "house"), "digest") is None
    assert ResultFile(tmp_path / "all.json").get(("a", "house:fixed"), "digest") == {"x": 1}


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"digest": "digest"}', '{"a/lru": 3}'])
def test_a_damaged_result_is_as_good_as_none(tmp_path: Path, damage: str) -> None:
    folder = ResultFolder(tmp_path)
    folder.put(("a", "lru"), "digest", {"x": 1})
    (file,) = tmp_path.iterdir()
    file.write_text(damage)
    assert folder.get(("a", "lru"), "digest") is None
    assert ResultFile(file).get(("a", "lru"), "digest") is None


def test_what_is_finished_is_not_run_again(tmp_path: Path, ran: list[str]) -> None:
    wanted = [evaluation("lru"), evaluation("lazy")]
    first = evaluate_all(wanted, SEEDS, tmp_path, 1, nothing)
    assert ran == ["lru", "lru", "lazy", "lazy"]
    assert len(list((tmp_path / PARTS).iterdir())) == 2
    ran.clear()
    assert evaluate_all(wanted, SEEDS, tmp_path, 1, nothing) == first
    assert not ran


@pytest.mark.parametrize(
    ("changed", "seeds", "expected"),
    [
        ([evaluation("lru", slack_ratio=0.012), evaluation("lazy")], SEEDS, ["lru", "lru"]),
        ([evaluation("lru"), evaluation("lazy")], (0, 1, 2), ["lru"] * 3 + ["lazy"] * 3),
        (
            [evaluation("lru"), replace(evaluation("lazy"), config=EngineConfig(slack_ratio=0.0))],
            SEEDS,
            ["lazy"] * 2,
        ),
        ([evaluation("lru", replace(SETTING, scenario=SMALL.at_rate(2.0)))], SEEDS, ["lru"] * 2),
    ],
)
def test_what_has_changed_is_run_again(
    tmp_path: Path,
    ran: list[str],
    changed: list[Evaluation],
    seeds: Sequence[int],
    expected: list[str],
) -> None:
    evaluate_all([evaluation("lru"), evaluation("lazy")], SEEDS, tmp_path, 1, nothing)
    ran.clear()
    evaluate_all(changed, seeds, tmp_path, 1, nothing)
    assert ran == expected


def test_a_changed_bundle_is_run_again(tmp_path: Path, ran: list[str]) -> None:
    for seed in (0, 0, 1):
        save_bundle(tmp_path / "bundle", random_network(seed), {})
        learned = contestants("house:fixed", [tmp_path / "bundle"])[-1:]
        evaluate_all(contest([SETTING], learned, {}), SEEDS, tmp_path, 1, nothing)
        # The same weights a second time: nothing to do.
        assert len(ran) == (2 if seed == 0 else 4)


def test_an_edited_engine_is_run_again(
    tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_all([evaluation()], SEEDS, tmp_path, 1, nothing)
    monkeypatch.setattr(suite_module, "source_digest", lambda: "edited")
    evaluate_all([evaluation()], SEEDS, tmp_path, 1, nothing)
    assert len(ran) == 4


def test_an_interrupted_run_goes_on(tmp_path: Path, ran: list[str]) -> None:
    wanted = [evaluation("lru"), evaluation("lazy"), evaluation("lru", UNSEEN)]

    def interrupt(stage: str, done: int, total: int) -> None:
        if done == len(SEEDS):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_all(wanted, SEEDS, tmp_path, 1, interrupt)
    assert ran == ["lru", "lru"]
    found = evaluate_all(wanted, SEEDS, tmp_path, 1, nothing)
    assert ran == ["lru", "lru", "lazy", "lazy", "lru", "lru"]
    assert found == evaluate_all(wanted, SEEDS, tmp_path / "another", 1, nothing)


def test_figures_are_those_of_the_evaluation(tmp_path: Path) -> None:
    found = evaluate_all([evaluation()], SEEDS, tmp_path, 1, nothing)
    policy = AgentPolicy("lru", Lru())
    runs = [run_policy(SMALL, policy, SMALL.trace(seed, "test")) for seed in SEEDS]
    assert found["small", "lru", "default"] == summarize(runs)
    (part,) = (tmp_path / PARTS).iterdir()
    assert json.loads(part.read_text())["result"] == summarize(runs)


def test_progress_counts_what_is_left(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    evaluate_all([evaluation("lru")], SEEDS, tmp_path, 1, nothing)
    wanted = [evaluation("lru"), evaluation("lazy"), evaluation("ttl")]
    evaluate_all(wanted, SEEDS, tmp_path, 1, lambda *what: seen.append(what))
    assert seen == [("eval", 0, 4), ("eval", 2, 4), ("eval", 4, 4)]


@pytest.mark.usefixtures("short_grid")
def test_tuned_constants_are_kept_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = tune_settings([SETTING], ["house", "lru"], tmp_path, 1, nothing)
    traces = [SMALL.trace(seed, "validation") for seed in range(2)]
    assert tuned["small", "house"] == tune(SMALL, "house", traces).constants
    assert set(json.loads((tmp_path / TUNED).read_text())) == {
        "small/house/default", "small/lru/default",
    }  # fmt: skip
    asked: list[str] = []

    def watched(scenario: Scenario, name: str) -> Any:
        asked.append(name)
        return tune(scenario, name, traces)

    monkeypatch.setattr(suite_module, "tune", watched)
    assert tune_settings([SETTING], ["house", "lru"], tmp_path, 1, nothing) == tuned
    assert not asked
    monkeypatch.setattr(House, "grid", {"guard_pauses": (0.0, 1.0)})
    tune_settings([SETTING], ["house", "lru"], tmp_path, 1, nothing)
    assert asked == ["house"]
    (evaluated,) = contest([SETTING], contestants("house"), tuned)
    assert evaluated.policy.rule == make_rule("house", tuned["small", "house"])


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        evaluate_all([evaluation()], SEEDS, tmp_path / "file", 1, nothing)


# -- processes ---------------------------------------------------------------------------


def test_processes_give_what_one_gives(tmp_path: Path) -> None:
    wanted = [evaluation("lru"), evaluation("ttl"), evaluation("lru", UNSEEN)]
    alone = evaluate_all(wanted, SEEDS, tmp_path / "alone", 1, nothing)
    assert evaluate_all(wanted, SEEDS, tmp_path / "pool", 2, nothing) == alone


def test_a_process_that_dies_is_said_in_one_line() -> None:
    jobs = [Job(partial(os._exit, 1), 1), Job(partial(math.sqrt, 4.0), 1)]
    with pytest.raises(RlkvError, match="a worker process died"):
        run_jobs(jobs, 2, lambda i, result: None)


def test_an_interrupt_does_not_wait_for_the_jobs_under_way() -> None:
    def interrupt(i: int, result: Any) -> None:
        raise KeyboardInterrupt

    jobs = [Job(partial(math.sqrt, 4.0), 1), Job(partial(time.sleep, 600.0), 1)]
    began_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, 2, interrupt)
    assert time.monotonic() - began_s < 60.0


# -- regret ------------------------------------------------------------------------------


def test_regret_by_hand() -> None:
    table = suite_regret(
        {
            "a": {"house": [1.0, 3.0], "lru": [2.0, 6.0], "net": [0.5, 1.5]},
            "b": {"house": [1.0, 1.0], "lru": [8.0, 8.0], "net": [0.5, 0.5]},
            "u": {"house": [2.0, 2.0], "lru": [1.0, 5.0], "net": [2.0, 2.0]},
        },
        {"a": "trained", "b": "trained", "u": "unseen"},
        "house",
    )
    # Paired: twice as slow on every trace is twice as slow without doubt.
    assert table["scenarios"]["a"]["lru"] == {"ratio": 2.0, "ci95": [2.0, 2.0]}
    assert table["scenarios"]["a"]["house"] == {"ratio": 1.0, "ci95": [1.0, 1.0]}
    low, high = table["scenarios"]["u"]["lru"]["ci95"]
    assert (low, table["scenarios"]["u"]["lru"]["ratio"], high) == (0.5, 1.5, 2.5)
    assert table["policies"]["lru"]["trained"] == {
        "geometric_mean": pytest.approx(4.0), "ci95": pytest.approx([4.0, 4.0]), "max": 8.0,
        "worst_scenario": "b", "num_scenarios": 2,
    }  # fmt: skip
    assert table["policies"]["net"]["trained"]["geometric_mean"] == pytest.approx(0.5)
    assert table["policies"]["net"]["unseen"]["max"] == 1.0
    assert list(table["policies"]) == ["net", "house", "lru"]


# -- ablations ---------------------------------------------------------------------------


@pytest.mark.usefixtures("short_grid")
def test_each_ablation_has_its_mechanism_off_and_the_rest_tuned(tmp_path: Path) -> None:
    found = ablate([SETTING, UNSEEN], SEEDS, tmp_path, 1, nothing)
    names = [each.name for each in ABLATIONS]
    for scenario in ("small", "other"):
        assert list(found["constants"][scenario]) == list(found["mean_s"][scenario]) == names
        for each in ABLATIONS:
            constants = found["constants"][scenario][each.name]
            assert each.pinned.items() <= constants.items()
    for scenario, setting in (("small", SETTING), ("other", UNSEEN)):
        traces = [setting.scenario.trace(seed, "validation") for seed in range(2)]
        full = tune(setting.scenario, "house", traces).constants
        assert found["constants"][scenario][FULL] == full
        row = found["regret"]["scenarios"][scenario]
        assert row[FULL]["ratio"] == 1.0
        # Where the full rule has it off already, nothing changes.
        assert row["no guard"]["ratio"] == 1.0 or full["guard_pauses"] > 0
    assert set(found["regret"]["policies"][FULL]) == {"trained", "unseen"}
    assert found == ablate([SETTING, UNSEEN], SEEDS, tmp_path, 1, nothing)


def test_the_whole_grid_never_loses_to_a_part(tmp_path: Path) -> None:
    found = ablate([SETTING], (0,), tmp_path, 1, nothing)["constants"]["small"]
    traces = [SMALL.trace(seed, "validation") for seed in range(NUM_VALIDATION)]

    def validation_s(constants: dict[str, float]) -> float:
        policy = AgentPolicy("house", make_rule("house", constants))
        return float(np.exp(np.log(validation_latency_s(SMALL, policy, traces)).mean()))

    full_s = validation_s(found[FULL])
    shipped = [each for each in ABLATIONS if each.config == EngineConfig()]
    for each in shipped:
        assert full_s <= validation_s(found[each.name])
        # What the full rule has off already is the full rule.
        assert found[each.name] == found[FULL] or not each.pinned.items() <= found[FULL].items()
    assert any(each.pinned.items() <= found[FULL].items() for each in shipped[1:])


def test_every_switched_off_value_is_in_the_grid() -> None:
    for each in ABLATIONS:
        for name, value in each.pinned.items():
            assert value in House.grid[name]
