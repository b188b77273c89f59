from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlkv.report.record import check_record
from rlkv_agents import train as train_module
from rlkv_agents.bundle import METADATA_FILE, WEIGHTS_FILE, save_bundle
from rlkv_agents.rules import RULES
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario
from rlkv_envs.traces import rlkv_jsonl
from rlkv_envs.workloads import Split, make_workload
from rlkv_envs.workloads.replay import split_of_root
from tests.agents.small_scenario import random_network
from tests.rlkv.command_line import (
    assert_refused,
    contents,
    make_quick,
    run,
    small_machine_toml,
)

TINY = ("--seeds", "2", "--sessions", "20")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    bodies = make_workload("crossover").bodies(np.random.default_rng(0), "train", 40)
    rlkv_jsonl.write_trace(bodies, path)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "bundle", random_network(), {})
    return tmp_path / "bundle"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    return small_machine_toml(tmp_path)


def test_a_bundle_on_ones_own_trace_and_machine(
    capsys: pytest.CaptureFixture[str], trace: Path, bundle: Path, machine: Path
) -> None:
    code, out, _ = run(
        capsys, "eval", "--bundle", bundle, "--trace", trace, "--profile", machine, *TINY, "--json"
    )
    assert code == 0
    record: Any = json.loads(out)
    check_record(record, "standard output")
    assert set(record["policies"]) == {*RULES, "learned"}
    assert record["scenario"] == "trace:trace.jsonl" and record["profile"] == "small"
    assert (record["learned"], record["seeds"], record["split"]) == ("learned", [0, 1], "test")
    assert record["num_sessions"] == 20 and record["rate_per_s"] > 0
    for figures in record["policies"].values():
        assert figures["sessions_finished"] == 40
        assert len(figures["mean_by_seed_s"]) == 2
        assert figures["ratio_to_best_rule"]["ratio"] > 0
    assert record["policies"][record["best_rule"]]["ratio_to_best_rule"]["ratio"] == 1.0
    assert record["policies"]["learned"]["num_decisions"] > 0


def test_a_bundle_called_like_a_rule_stands_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_bundle(tmp_path / "bundle", replace(random_network(), name="lru"), {})
    options = (
        "eval", "--scenario", "crossover-slow", "--seeds", 1, "--sessions", 120, "--no-tune",
        "--json",
    )  # fmt: skip
    code, out, _ = run(capsys, *options, "--bundle", tmp_path / "bundle", "--out", tmp_path / "run")
    assert code == 0
    record: Any = json.loads(out)
    assert set(record["policies"]) == {*RULES, "bundle lru"}
    assert record["learned"] == "bundle lru"
    alone = json.loads(run(capsys, *options)[1])["policies"]["lru"]
    assert record["policies"]["lru"]["mean_by_seed_s"] == alone["mean_by_seed_s"]
    assert record["policies"]["bundle lru"]["mean_by_seed_s"] != alone["mean_by_seed_s"]
    assert run(capsys, "eval", "--replay", tmp_path / "run")[0] == 0


def test_the_rules_alone_as_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = run(capsys, "eval", "--scenario", "crossover-slow", *TINY, "--no-tune")
    assert code == 0 and "Traceback" not in err
    assert all(name in out for name in RULES)


def test_tuning_is_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("eval", "--scenario", "crossover-slow", *TINY, "--json")
    tuned, plain = (json.loads(run(capsys, *options, *extra)[1]) for extra in ((), ("--no-tune",)))
    assert plain["policies"]["house"]["constants"] == {
        "guard_pauses": 1.0, "swap_ratio": 4.0, "write_through": 0.0, "new_swaps": 1.0,
        "slack_ratio": 0.003,
    }  # fmt: skip
    assert plain["policies"]["lru"] == tuned["policies"]["lru"] | {
        "ratio_to_best_rule": plain["policies"]["lru"]["ratio_to_best_rule"]
    }


@pytest.mark.parametrize(
    "options",
    [
        ("--trace", "{trace}", "--profile", "{machine}", "--bundle", "{bundle}"),
        ("--workload", "infercept", "--profile", "{machine}", "--rate", "1.5"),
        ("--scenario", "coding", "--concurrent", "6"),
        ("--scenario", "crossover-slow", "--rate", "9", "--bundle", "{bundle}"),
    ],
)
def test_a_record_replays(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    trace: Path,
    machine: Path,
    bundle: Path,
    options: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"trace": trace.name, "machine": machine.name, "bundle": bundle.name}
    given = [option.format(**names) for option in options]
    code, out, _ = run(capsys, "eval", *given, *TINY, "--no-tune", "--json")
    assert code == 0
    (tmp_path / "record.json").write_text(out)
    code, out, err = run(capsys, "eval", "--replay", "record.json")
    assert code == 0, err
    assert "the record agrees" in out and "DIFFERS" not in out


def test_an_edited_record_does_not_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bundle: Path
) -> None:
    options = ("eval", "--scenario", "crossover-slow", *TINY, "--no-tune", "--bundle", bundle)
    assert run(capsys, *options, "--out", tmp_path / "run")[0] == 0
    assert {"record.json", "report.html", "policies.png"} <= set(contents(tmp_path / "run"))
    path = tmp_path / "run" / "record.json"
    assert run(capsys, "eval", "--replay", path.parent)[0] == 0
    whole = path.read_text()
    for name, factor in (("lru", 1 + 1e-6), ("learned", 0.9)):
        record: Any = json.loads(whole)
        record["policies"][name]["normalized_latency_s"]["mean"] *= factor
        path.write_text(json.dumps(record))
        code, out, err = run(capsys, "eval", "--replay", path, "--json")
        replayed = json.loads(out)
        assert code == 1 and not replayed["agrees"]
        assert [row["policy"] for row in replayed["policies"] if not row["agrees"]] == [name]
        assert err.splitlines()[-1].startswith("error: ") and "differ" in err
        assert "Traceback" not in err
    record = json.loads(whole)
    record["inputs"]["rate_per_s"] *= 1.1
    path.write_text(json.dumps(record))
    code, out, _ = run(capsys, "eval", "--replay", path)
    assert code == 1 and "DIFFERS" in out


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda r: r.pop("inputs"), "what to replay: Object missing required field `inputs`"),
        (lambda r: r.update(inputs=None), "what to replay"),
        (lambda r: r["inputs"].update(rate_per_s="fast"), "what to replay"),
        (lambda r: r["inputs"].update(num_sessions=0), "at least 1 session"),
        (lambda r: r["inputs"].update(profile="gone"), "no profile 'gone'"),
        (lambda r: r["inputs"].update(workload="gone"), "unknown workload 'gone'"),
        (lambda r: r["inputs"].update(trace="gone.jsonl"), "gone.jsonl: cannot read"),
        (lambda r: r["policies"]["lru"].pop("rule"), "what to replay"),
        (lambda r: r["policies"]["lru"].update(rule="gone"), "unknown rule 'gone'"),
        (lambda r: r.update(seeds=["one"]), "seeds"),
        (lambda r: r.update(seeds=[-1]), "record.json: seed must be 0 or more, got -1"),
        (lambda r: r["inputs"].update(num_concurrent=0), "record.json: num_concurrent must be"),
        (lambda r: r["inputs"].update(num_sessions=10**9), "record.json: --sessions must be"),
        (lambda r: r["policies"]["house"].update(constants={"gard": 1.0}),
         "record.json: rule 'house' has no constant 'gard' (it has: slack_ratio, guard_pauses, "),
        (lambda r: r.update(seeds=[]), "at least one seed"),
        (lambda r: r.update(version=2), "version: 2 is newer than 1"),
        (lambda r: r.update(learned="lru", bundle="gone"), "bundle.json: cannot read it"),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_replayed(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    edit: Callable[[dict[str, Any]], object],
    named: str,
) -> None:
    options = ("--scenario", "crossover-slow", "--seeds", 1, "--sessions", 5, "--no-tune")
    record = json.loads(run(capsys, "eval", *options, "--json")[1])
    edit(record)
    (tmp_path / "record.json").write_text(json.dumps(record))
    assert_refused(run(capsys, "eval", "--replay", tmp_path), named)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"version": 1}'])
def test_what_is_no_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    if content is not None:
        (tmp_path / "record.json").write_text(content)
    assert_refused(run(capsys, "eval", "--replay", tmp_path), "record.json: ")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--scenario", "nope"], "unknown scenario 'nope': one of"),
        (["--profile", "nope"], "no profile 'nope'"),
        (["--profile", "nope.toml"], "nope.toml: cannot be read"),
        (["--workload", "nope"], "unknown workload 'nope': one of"),
        (["--trace", "nope.jsonl"], "nope.jsonl: cannot read"),
        (["--trace", "{trace}", "--workload", "crossover"], "--trace replaces"),
        (["--trace", "{trace}", "--rate", "0"], "rate must be positive, got 0.0"),
        (["--rate", "1", "--concurrent", "2"], "--rate and --concurrent exclude each other"),
        (["--rate", "-2"], "rate must be positive, got -2.0"),
        (["--rate", "nan"], "rate must be positive, got nan"),
        (["--rate", "inf"], "rate must be positive, got inf"),
        (["--concurrent", "-1"], "num_concurrent must be 1 or more, got -1"),
        (["--sessions", "0"], "at least 1 session, got 0"),
        (["--sessions", "-4"], "at least 1 session, got -4"),
        (["--seeds", "0"], "--seeds must be 1 to 10000, got 0"),
        (["--seeds", "1000000000000"], "--seeds must be 1 to 10000"),
        (["--bundle", "nope"], "nope/bundle.json: cannot read it"),
        (["--out", "{trace}"], "trace.jsonl: cannot write there"),
        (["--out", "{trace}/run"], "trace.jsonl/run: cannot write there"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    trace: Path,
    options: list[str],
    named: str,
) -> None:
    def fail(*args: object) -> None:
        raise AssertionError("work was done first")

    monkeypatch.setattr(train_module, "tune_all", fail)
    given = [option.format(trace=trace) for option in options]
    assert_refused(run(capsys, "eval", *given), named)


def _lines(change: Callable[[list[str]], list[str]]) -> Callable[[Path], object]:
    return lambda path: path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def _first_turn(field: str, value: object) -> Callable[[Path], object]:
    def change(lines: list[str]) -> list[str]:
        turn = json.loads(lines[1]) | {field: value}
        return [lines[0], json.dumps(turn), *lines[2:]]

    return _lines(change)


def _all_in_one_split(path: Path) -> None:
    lines = path.read_text().splitlines()
    turns = [json.loads(line) for line in lines[1:]]
    chosen = [t for t in turns if split_of_root(t["session_id"]) != "test"]
    assert 0 < len(chosen) < len(turns)
    path.write_text("\n".join([lines[0], *map(json.dumps, chosen)]) + "\n")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda path: path.unlink(), "trace.jsonl: cannot read: No such file"),
        (lambda path: path.write_bytes(b""), "trace.jsonl: the file is empty"),
        (_lines(lambda lines: lines[:1]), "trace.jsonl: no sessions in the file"),
        (lambda path: path.write_bytes(bytes(range(256))), "trace.jsonl: not a known trace format"),
        (_lines(lambda lines: [*lines[:-1], lines[-1][:40]]), "not valid JSON"),
        (_first_turn("pause_s", math.nan), "trace.jsonl:2: not valid JSON"),
        (_first_turn("pause_s", -0.5), "trace.jsonl:2: "),
        (_first_turn("pause_s", None), "needs a tool and a pause_s"),
        (_first_turn("input_tokens", -5), "trace.jsonl:2: "),
        (_first_turn("output_tokens", 0), "trace.jsonl:2: "),
        (_first_turn("input_tokens", 2.5), "trace.jsonl:2: "),
        (_first_turn("turn", 3), "trace.jsonl:2: "),
        (_lines(lambda lines: lines[:3] + lines[1:]), "trace.jsonl:4: "),
        # One session is in one split: the others have none.
        (_lines(lambda lines: [lines[0], *[x for x in lines if '"crossover-train-0"' in x]]),
         "falls into the"),
        (_all_in_one_split, "trace.jsonl: no session of 1 turns or more falls into the test split"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["eval", "train", "tune"])
def test_a_trace_that_cannot_be_used(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    trace: Path,
    command: str,
    damage: Callable[[Path], object],
    named: str,
) -> None:
    damage(trace)
    out = ["--out", str(tmp_path / "run")] if command == "train" else []
    assert_refused(run(capsys, command, "--trace", trace, *out), named)
    assert not (tmp_path / "run").exists()


def test_machines_that_are_too_small(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trace: Path
) -> None:
    for num_blocks, options, named in (
        (20, ["--workload", "crossover"], "the device pool of small holds 320"),
        (0, ["--workload", "crossover"], "num_device_blocks must be"),
        (0, ["--trace", str(trace)], "num_device_blocks must be"),
        (4, ["--trace", str(trace)], "profile small: 4 blocks of 16 tokens are too few to replay"),
    ):
        machine = small_machine_toml(tmp_path, num_blocks)
        assert_refused(run(capsys, "eval", "--profile", machine, *TINY, *options), named)


@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_session_too_large_in_a_held_out_trace_alone(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    draw = Scenario.trace

    def trace(self: Scenario, seed: int, split: Split) -> Trace:
        drawn = draw(self, seed, split)
        if (split, seed) == ("test", 1):
            drawn.input_tokens[3] += 10**6
        return drawn

    def fail(*args: object) -> None:
        raise AssertionError("work was done first")

    monkeypatch.setattr(Scenario, "trace", trace)
    monkeypatch.setattr(train_module, "tune_all", fail)
    out = ["--out", tmp_path / "run"]
    refused = run(capsys, command, "--scenario", "crossover-slow", *TINY, *out)
    assert_refused(refused, "tokens of KV, the device pool of gptj-6b-a100-40gb+link0.125 holds")
    assert not (tmp_path / "run").exists()


def test_a_recorded_session_larger_than_the_pool_is_scaled_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trace: Path
) -> None:
    machine = small_machine_toml(tmp_path, num_device_blocks=40)
    options = ("--trace", trace, "--profile", machine, *TINY, "--no-tune", "--json")
    code, out, _ = run(capsys, "eval", *options)
    assert code == 0
    assert json.loads(out)["policies"]["house"]["sessions_finished"] == 40


@pytest.mark.parametrize("file", [METADATA_FILE, WEIGHTS_FILE])
@pytest.mark.parametrize("damage", ["gone", "cut", "empty"])
def test_a_broken_bundle(
    capsys: pytest.CaptureFixture[str], bundle: Path, file: str, damage: str
) -> None:
    path = bundle / file
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    assert_refused(run(capsys, "eval", "--bundle", bundle, *TINY), str(path))


def test_a_run_that_fails_keeps_the_results_of_an_earlier_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = ("eval", "--scenario", "crossover-slow", *TINY, "--no-tune", "--out", out)
    assert run(capsys, *options)[0] == 0
    before = contents(out)
    for wrong in (["--seeds", "0"], ["--rate", "-1"], ["--bundle", str(tmp_path / "gone")]):
        assert run(capsys, *options, *wrong)[0] == 2
        assert contents(out) == before


def test_interrupted_it_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlkv.experiment.run_policy", interrupt)
    code, _, err = run(capsys, "eval", *TINY, "--no-tune", "--out", tmp_path / "run")
    assert code == 130 and "Traceback" not in err
    assert contents(tmp_path / "run") == {}
