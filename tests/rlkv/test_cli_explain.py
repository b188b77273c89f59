"""``rlkv explain`` on networks, trees and rules; ``rlkv train --as-tree``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from rlkv_agents import distilling
from rlkv_agents import train as train_module
from rlkv_agents.advice import Advice, candidates, describe
from rlkv_agents.bundle import load_bundle, save_bundle
from rlkv_agents.distilling import Distilled, DistilSettings
from rlkv_agents.forked_learner import ForkedLearner
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import constants_of
from rlkv_agents.tune import validation_traces
from rlkv_envs.scenario import load_scenario
from tests.agents.small_trees import waits_for
from tests.rlkv.command_line import assert_refused, contents, make_quick, run

SMALL = DistilSettings(depths=(1, 2), num_passes=2, traces_per_pass=2, num_per_trace=1000)
TRAINED_ON = {
    "scenario": "crossover-slow",
    "profile": "gptj-6b-a100-40gb+link0.125",
    "workload": "crossover",
    "rate_per_s": 30.0,
    "num_sessions": 80,
}
HOUSE = House(guard_pauses=0.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)
    monkeypatch.setattr(distilling, "DistilSettings", lambda: SMALL)
    monkeypatch.setattr("rlkv.explain.DistilSettings", lambda: SMALL)
    monkeypatch.setattr(distilling, "validation_traces", lambda s: validation_traces(s, 2))


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Path]:
    save_bundle(tmp_path / "bundle", waits_for(0.6, HOUSE), {"trained_on": TRAINED_ON})
    yield tmp_path / "bundle"


@pytest.mark.pictures
def test_a_network_is_explained_on_what_it_was_trained_on(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, trees = tmp_path / "out", tmp_path / "trees"
    code, printed, err = run(
        capsys, "explain", bundle, "--seeds", 2, "--out", out, "--as-tree", trees
    )
    assert code == 0, err
    assert "waits departs from its rule at" in printed
    assert "SWAP -> PRESERVE" in printed
    assert "if its expected remaining pause <= " in printed and "mean pauses (" in printed
    assert "agrees with the network on" in printed and "depth" in printed
    assert set(contents(out)) == {"explain.json", "explain.md", "explain.png"}
    assert (out / "explain.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "explain.md").read_text()
    assert "## crossover-slow" in page and "](explain.png)" in page and "```" in page
    record: Any = json.loads((out / "explain.json").read_text())
    (one,) = record["explained"]
    assert (one["scenario"], one["rate_per_s"], one["num_sessions"]) == ("crossover-slow", 30.0, 80)
    explanation = one["explanation"]
    assert explanation["kind"] == "network"
    assert set(explanation["latency"]) == {"rule", "network", "trees, depth 1", "trees, depth 2"}
    assert explanation["latency"]["rule"]["ratio_to_rule"]["ratio"] == 1.0
    loaded = load_bundle(trees)
    assert loaded.policy.trees is not None and loaded.policy.rule == HOUSE
    assert loaded.metadata["trained_on"] == TRAINED_ON
    assert loaded.metadata["distilled"]["depth"] == explanation["depth"]
    # A bundle of trees is explained by its own trees, which cost what the record says.
    code, printed, _ = run(capsys, "explain", trees, "--seeds", 2, "--json")
    again = json.loads(printed)["explained"][0]["explanation"]
    assert code == 0 and again["kind"] == "trees" and "depth" not in again
    chosen = explanation["latency"][f"trees, depth {explanation['depth']}"]
    assert again["latency"]["trees"]["mean_s"] == chosen["mean_s"]
    (new,) = (tree for tree in again["trees"] if tree["requester"] == "NEW")
    assert new["agreement"] is None and new["departed"] > 0
    assert run(capsys, "explain", trees, "--seeds", 1, "--out", tmp_path / "again")[0] == 0


def test_a_rule_never_departs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rule"
    save_bundle(path, AgentPolicy("house", House()), {"trained_on": TRAINED_ON})
    code, printed, _ = run(capsys, "explain", path, "--seeds", 1, "--out", tmp_path / "out")
    assert code == 0 and "house never departs from its rule (house)" in printed
    assert set(contents(tmp_path / "out")) == {"explain.json", "explain.md"}
    refused = run(capsys, "explain", path, "--seeds", 1, "--as-tree", tmp_path / "trees")
    assert_refused(refused, "nothing to distil")


def test_on_another_scenario_and_several_at_once(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    save_bundle(other, waits_for(0.5, HOUSE), {})
    options = ("--scenario", "coding", "--sessions", 40, "--rate", 30, "--seeds", 1)
    code, printed, _ = run(capsys, "explain", bundle, other, *options, "--json")
    record = json.loads(printed)
    assert code == 0 and [one["bundle"] for one in record["explained"]] == [str(bundle), str(other)]
    assert {one["scenario"] for one in record["explained"]} == {"coding"}


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({}, "does not say which scenario it was trained on: give --scenario"),
        ({"trained_on": "crossover"}, "does not say which scenario it was trained on"),
        ({"trained_on": {"scenario": "x", "profile": "p", "workload": "crossover"}},
         "it was trained on 'x', which cannot be built here"),
        ({"trained_on": {**TRAINED_ON, "rate_per_s": -1.0}}, "rate must be positive"),
        ({"trained_on": {**TRAINED_ON, "num_sessions": 0}}, "at least 1 session"),
    ],
)  # fmt: skip
def test_bundles_that_do_not_say_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], metadata: dict[str, Any], named: str
) -> None:
    save_bundle(tmp_path, waits_for(0.6, HOUSE), metadata)
    assert_refused(run(capsys, "explain", tmp_path), named)


def test_what_cannot_be(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(run(capsys, "explain", bundle, "--seeds", 0), "--seeds must be 1 to")
    assert_refused(run(capsys, "explain", bundle, "--seed", -1), "--seed must be 0 or more, got -1")
    refused = run(capsys, "explain", bundle, bundle, "--as-tree", bundle.parent / "trees")
    assert_refused(refused, "--as-tree distils one bundle, got 2")
    refused = run(capsys, "explain", bundle.parent / "none")
    assert_refused(refused, "bundle.json: cannot read it")


def learning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training that ends at a network which departs from its rule, however it validates."""
    monkeypatch.setattr(train_module, "caution_score", lambda latency, base: -1.0)
    monkeypatch.setattr(
        ForkedLearner,
        "policy",
        lambda self, name: replace(
            waits_for(0.6, House(guard_pauses=0.0)), name=name, rule=self.rule
        ),
    )
    # from_tensors takes the learner's prior.
    monkeypatch.setattr(ForkedLearner, "prior", 4.0)
    monkeypatch.setattr(House, "grid", {"guard_pauses": (0.0,), "write_through": (1.0,)})


TRAIN = ("train", "--scenario", "crossover-slow", "--rounds", 2, "--order-rounds", 1,
         "--seeds", 2, "--sessions", 80, "--rate", 30)  # fmt: skip


@pytest.mark.pictures
@pytest.mark.slow
@pytest.mark.parametrize("safe", [True, False])
def test_trees_are_saved_unless_they_are_worse_than_the_rule(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    safe: bool,
) -> None:
    learning(monkeypatch)
    monkeypatch.setattr(Distilled, "is_safe", property(lambda self: safe))
    code, printed, err = run(capsys, *TRAIN, "--as-tree", "--out", tmp_path, "--json")
    assert code == 0, err
    record = json.loads(printed)
    explanation = record["explanation"]
    assert explanation["kind"] == "network"
    assert explanation["saved"] == ("trees" if safe else "network")
    loaded = load_bundle(tmp_path / "bundle")
    assert (loaded.policy.trees is not None) == safe == ("distilled" in loaded.metadata)
    assert ("no trees: on validation traces they take" in err) == (not safe)
    # What was judged is what was saved.
    key = f"trees, depth {explanation['depth']}" if safe else "network"
    judged = record["policies"]["learned"]["normalized_latency_s"]["mean"]
    assert judged == pytest.approx(explanation["latency"][key]["mean_s"], rel=1e-9)
    page = (tmp_path / "report.html").read_text()
    assert "What was learnt" in page and "<pre>" in page
    assert (tmp_path / "departures.png").read_bytes().startswith(b"\x89PNG")
    assert run(capsys, "eval", "--replay", tmp_path)[0] == 0
    assert run(capsys, "report", tmp_path)[0] == 0


def test_without_anything_learnt_there_are_no_trees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "caution_score", lambda latency, base: 1.0)
    code, printed, err = run(capsys, *TRAIN, "--as-tree", "--out", tmp_path)
    assert code == 0
    assert "learned never departs from its rule (house)" in " ".join(printed.split())
    assert "no trees: what was learnt never departs from its rule" in err
    assert load_bundle(tmp_path / "bundle").policy.trees is None
    assert "never departs from its rule" in (tmp_path / "report.html").read_text()


def test_an_advised_bundle_is_explained_with_the_rule_that_is_right_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = load_scenario("crossover-slow")
    regret = np.ones((1, len(candidates())))
    regret[0, 5] = 0.0
    for departs, kind in ((1.0, "network"), (0.0, "rule")):
        known = Advice.of_constants(
            candidates(), describe(scenario.profile, scenario.table)[None], regret
        )
        advice = replace(known, departs=np.array([departs]))
        save_bundle(
            tmp_path / kind,
            replace(waits_for(0.6, HOUSE), advice=advice),
            {"trained_on": TRAINED_ON},
        )
        code, out, err = run(capsys, "explain", tmp_path / kind, "--seeds", 2, "--json")
        assert code == 0, err
        explanation = json.loads(out)["explained"][0]["explanation"]
        assert explanation["kind"] == kind
        expected = constants_of(candidates()[5])
        assert explanation["constants"] == expected
