from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlkv.report.record import check_record
from rlkv_agents import tune
from rlkv_agents.ablation import ABLATIONS
from rlkv_agents.both_forms import BothForms
from rlkv_agents.bundle import save_bundle
from rlkv_agents.forked_learner import ForkedLearner
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import RULES, make_rule
from rlkv_envs.scenario import KNEES, PRESETS
from tests.agents.small_scenario import random_network
from tests.rlkv.command_line import SMALL_PRESET, assert_refused, contents, make_quick, run

LEARNT, NEW = "crossover-slow", "unseen-tiny-host"
TINY = ("--seeds", "2", "--workers", "1")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    make_quick(monkeypatch)
    grid = {"slack_ratio": (0.0, 0.012), "guard_pauses": (0.0, 0.5), "swap_ratio": (0.0, 1e9),
            "write_through": (0.0, 1.0)}  # fmt: skip
    for rule in ("house", "clairvoyant"):
        monkeypatch.setattr(RULES[rule], "grid", grid)
    for module in ("rlkv_agents.tune", "rlkv_agents.ablation"):
        two = tune.validation_traces
        monkeypatch.setattr(
            f"{module}.validation_traces", lambda scenario, num=2, draw=two: draw(scenario, num)
        )
    shipped = dict(PRESETS)
    PRESETS.clear()
    PRESETS[LEARNT] = replace(SMALL_PRESET, suite="trained")
    PRESETS[NEW] = replace(SMALL_PRESET, profile="gptj-6b-a100-40gb+host0.1", suite="unseen")
    yield
    # As they were, in their order too.
    PRESETS.clear()
    PRESETS.update(shipped)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "bundle", random_network(), {})
    return tmp_path / "bundle"


@pytest.mark.pictures
def test_rules_and_a_bundle_on_both_suites(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, bundle: Path
) -> None:
    said = ("--policies", "lru,house:fixed,clairvoyant", "--bundle", bundle)
    code, out, _ = run(capsys, "suite", "run", *said, *TINY, "--out", tmp_path / "out", "--json")
    assert code == 0
    record: Any = json.loads(out)
    check_record(record, "standard output")
    assert json.loads((tmp_path / "out" / "record.json").read_text()) == record
    assert [part["scenario"] for part in (record, *record["also"])] == [LEARNT, NEW]
    names = {"house", "lru", "house:fixed", "clairvoyant", "learned"}
    regret = record["suite"]
    for part in (record, *record["also"]):
        assert set(part["policies"]) == names
        assert part["learned"] == "learned" and part["best_rule"] in names - {"learned"}
        house = part["policies"]["house"]["normalized_latency_s"]["mean"]
        for name, figures in part["policies"].items():
            found = regret["scenarios"][part["scenario"]][name]
            mean = figures["normalized_latency_s"]["mean"]
            assert found["ratio"] == pytest.approx(mean / house)
            assert found["ci95"][0] <= found["ratio"] <= found["ci95"][1]
    assert regret["suite_of"] == {LEARNT: "trained", NEW: "unseen"}
    assert regret["policies"]["lru"]["unseen"]["worst_scenario"] == NEW
    assert (tmp_path / "out" / "suite.png").read_bytes()[:4] == b"\x89PNG"
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 2 * len(names)

    # What it wrote can be replayed, and a second run has nothing to do.
    code, out, _ = run(capsys, "eval", "--replay", tmp_path / "out", "--json")
    assert code == 0 and json.loads(out)["agrees"] and len(json.loads(out)["policies"]) == 10
    before = contents(tmp_path / "out" / "parts")
    code, out, err = run(capsys, "suite", "run", *said, *TINY, "--out", tmp_path / "out", "--json")
    assert code == 0 and "held-out" not in err and json.loads(out)["suite"] == regret
    assert contents(tmp_path / "out" / "parts") == before


def test_tables_fit_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    code, out, _ = run(
        capsys, "suite", "run", "--policies", "lru", *TINY, "--out", tmp_path / "out"
    )
    assert code == 0
    assert max(map(len, out.splitlines())) <= 50
    for words in ("mean normalized latency", "regret by scenario", "lru", "1.00x", "host"):
        assert words in out
    assert "…" not in out
    written = (tmp_path / "out" / "suite.md").read_text()
    assert f"| | {LEARNT} | {NEW} |" in written
    assert re.search(r"\| lru \| .*x \(.*-.*\)", written)


def test_one_suite_under_other_arrivals(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    means = {}
    for kind in ("default", "bursts", "closed"):
        code, out, _ = run(
            capsys, "suite", "run", "--policies", "house:fixed", "--scenarios", "unseen",
            "--arrivals", kind, *TINY, "--out", tmp_path / "out", "--json",
        )  # fmt: skip
        assert code == 0
        record = json.loads(out)
        assert record["scenario"] == NEW and not record["also"]
        assert record["suite"]["arrivals"] == kind
        # Bursts are nothing that a replay could draw again.
        assert ("inputs" in record) == (kind != "bursts")
        means[kind] = record["policies"]["house:fixed"]["normalized_latency_s"]["mean"]
    assert len(set(means.values())) == 3
    # Of the reference, the fixed rule and the universal bundle.
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 9


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--policies", "nope"), "unknown rule 'nope'"),
        (("--policies", "house:nope"), "house:nope"),
        (("--scenarios", "nope"), "unknown scenario 'nope'"),
        (("--seeds", "0"), "--seeds must be 1"),
        (("--workers", "0"), "--workers must be 1"),
        (("--arrivals", "nope"), "unknown arrivals 'nope'"),
        (("--arrivals", "stamps"), "--trace"),
        (("--bundle", "nowhere"), "nowhere"),
    ],
)
def test_input_that_makes_no_sense(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, str], named: str
) -> None:
    assert_refused(run(capsys, "suite", "run", "--out", tmp_path / "out", *words), named)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "ablate"])
def test_a_folder_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(run(capsys, "suite", command, "--out", tmp_path / "file"), "cannot write")


def test_ablations(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "suite", "ablate", *TINY, "--out", tmp_path, "--json")
    assert code == 0
    record = json.loads(out)
    assert json.loads((tmp_path / "ablation.json").read_text()) == record
    assert set(record["regret"]["scenarios"]) == {LEARNT, NEW}
    for row in record["regret"]["scenarios"].values():
        assert list(row) == [each.name for each in ABLATIONS]
    table = (tmp_path / "mechanisms.md").read_text()
    assert all(each.name in table for each in ABLATIONS) and "geometric mean, unseen" in table
    code, out, _ = run(capsys, "suite", "ablate", *TINY, "--out", tmp_path)
    assert code == 0 and "full rule" in out
    assert_refused(run(capsys, "suite", "ablate", "--seeds", "0", "--out", tmp_path), "--seeds")


def test_knees(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(KNEES["crossover"], num_sessions=60, rate_per_s=4.0)
    monkeypatch.setitem(KNEES, "crossover", small)
    code, out, _ = run(capsys, "suite", "knees", "crossover", "--json")
    assert code == 0
    (row,) = json.loads(out)
    tried = dict(row["tried"])
    assert row["recorded_rate_per_s"] == 4.0
    assert row["limit_s"] == pytest.approx(2.0 * row["empty_s"])
    # The highest load that was found within the limit; the lowest beyond is 1 % above.
    assert tried[row["rate_per_s"]] <= row["limit_s"]
    beyond = min(rate for rate, latency_s in tried.items() if latency_s > row["limit_s"])
    assert row["rate_per_s"] < beyond <= 1.01 * row["rate_per_s"]
    code, out, _ = run(capsys, "suite", "knees", "crossover")
    assert code == 0 and "recorded" in out and f"{row['rate_per_s']:.4g}" in out
    assert_refused(run(capsys, "suite", "knees", "nope"), "unknown knee 'nope'")


def test_what_every_policy_sustains(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = replace(KNEES["crossover"], num_sessions=60, rate_per_s=4.0)
    monkeypatch.setitem(KNEES, "crossover", small)
    save_bundle(tmp_path / "bundle", AgentPolicy("learned", make_rule("lru")), {})
    words = ("suite", "knees", "crossover", "--policies", "house:fixed,lru:fixed", "--bundle",
             tmp_path / "bundle", "--seeds", 2, "--workers", 1, "--out", tmp_path)  # fmt: skip
    monkeypatch.setattr(RULES["house"], "grid", {"guard_pauses": (0.0, 0.5)})
    code, out, _ = run(capsys, *words, "--json")
    assert code == 0
    record = json.loads(out)
    assert json.loads((tmp_path / "knees.json").read_text()) == record
    (policies,) = record["machines"].values()
    assert list(policies) == ["house", "house:fixed", "lru:fixed", "learned"]
    for rates in policies.values():
        assert rates["limit_s"] == pytest.approx(2.0 * rates["empty_s"])
        assert len(rates["rate_by_seed_per_s"]) == 2 and rates["rate_per_s"] > 0
        low, high = rates["over_house"]["ci95"]
        assert low <= rates["over_house"]["ratio"] <= high
    assert policies["house"]["over_house"] == {"ratio": 1.0, "ci95": [1.0, 1.0]}
    assert policies["learned"]["rate_by_seed_per_s"] == policies["lru:fixed"]["rate_by_seed_per_s"]
    assert policies["lru:fixed"]["over_house"]["ratio"] < 1.0
    # Everything is kept: the same command only draws.
    monkeypatch.setattr("rlkv_agents.knee_contest.find_knee", None)
    code, out, _ = run(capsys, *words)
    assert code == 0 and "lru:fixed" in out and "sustainable load" in out
    assert "| lru:fixed |" in (tmp_path / "knees.md").read_text()
    refused = run(capsys, "suite", "knees", "nope", "--policies", "house", "--out", tmp_path)
    assert_refused(refused, "unknown knee or scenario 'nope'")
    assert_refused(run(capsys, "suite", "knees", "--policies", "house"), "need --out")


def test_training_for_each_machine_seed_by_seed(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
) -> None:
    monkeypatch.setattr(ForkedLearner, "traces_per_round", 1)
    monkeypatch.setattr(ForkedLearner, "forks_per_trace", 10)
    monkeypatch.setattr(BothForms, "default_rounds", 2)
    monkeypatch.setattr("rlkv_agents.train.DEFAULT_ORDER_ROUNDS", 2)
    out = tmp_path / "out"
    words = ("suite", "train", "--scenarios", LEARNT, "--train-seeds", "0,4", *TINY, "--out", out,
             "--warm-start", "none", "--warm-start", bundle)  # fmt: skip
    code, printed, _ = run(capsys, *words, "--json")
    assert code == 0
    record: Any = json.loads(printed)
    assert set(record["machines"][LEARNT]) == {"none", "bundle"}
    for by_seed in record["machines"][LEARNT].values():
        assert set(by_seed) == {"0", "4"}
        for each in by_seed.values():
            house, learned = (each["mean_by_seed_s"][name] for name in ("house", "learned"))
            assert each["learned"]["ratio"] == pytest.approx(sum(learned) / sum(house))
            assert each["learned_by"] in ("none", "order", "bundle", "clip", "kl")
    assert (out / "training.md").read_text().count(f"| {LEARNT}, from ") == 2

    def fail(*args: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("rlkv_agents.train_contest.train", fail)
    code, again, _ = run(capsys, *words)
    assert code == 0 and f"{LEARNT}, from the rule" in again
    assert json.loads((out / "training.json").read_text())["machines"] == record["machines"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--train-seeds", "0,x"), "--train-seeds must be numbers with commas, got '0,x'"),
        (("--train-seeds", "1,1"), "--train-seeds must be 0 or more, each once, got '1,1'"),
        (("--warm-start", "none", "--warm-start", "none"), "two of the same name among none, none"),
        (("--warm-start", "nowhere"), "nowhere/bundle.json"),
    ],
)
def test_training_that_cannot_be(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    words = ("suite", "train", "--scenarios", LEARNT, "--out", tmp_path / "out", *options)
    assert_refused(run(capsys, *words), named)
