from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlkv.report.record import read_record
from rlkv_agents import train as train_module
from rlkv_agents.bundle import load_bundle
from rlkv_agents.forked_learner import ForkedLearner
from rlkv_agents.rules import RULES
from rlkv_envs.traces.whole_file import write_files
from tests.rlkv.command_line import (
    assert_refused,
    contents,
    make_quick,
    run,
    small_machine_toml,
)

QUICK = ("--seeds", "1", "--sessions", "20", "--order-rounds", "1")
TINY = ("--rounds", "2", "--order-rounds", "1", "--seeds", "2", "--sessions", "40")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than training here: the record alone is written."""

    def write_record(record: dict[str, Any], folder: Path, beside: dict[str, bytes]) -> None:
        write_files(folder, beside | {"record.json": json.dumps(record).encode()})

    monkeypatch.setattr("rlkv.report.write.write_report", write_record)


@pytest.fixture(scope="module")
def default_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``rlkv train`` as most people start it, only smaller; one run for several tests."""
    import sys

    from rlkv import cli

    out = tmp_path_factory.mktemp("runs") / "default"
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        patch.setattr(sys, "argv", ["rlkv", "train", *TINY, "--out", str(out)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
    assert exited.value.code == 0
    yield out


def test_a_run_leaves_bundle_record_page_and_pictures(default_run: Path) -> None:
    names = set(contents(default_run))
    assert {
        "bundle/bundle.json", "bundle/weights.safetensors", "record.json", "report.html",
        "policies.png", "learning_curve.png", "gaps.png", "load.png", "memory_timeline.png",
        "regret.png", "policies-coding.png", "gaps-coding.png",
        "checkpoint/progress.json", "checkpoint/2.state.safetensors",
        "checkpoint/2.best.safetensors",
    } <= names  # fmt: skip
    for name, content in contents(default_run).items():
        if name.endswith(".png"):
            assert content.startswith(b"\x89PNG") and len(content) > 5000
    page = (default_run / "report.html").read_text()
    assert "learned" in page and "min-waste" in page
    assert not [name for name in names if ".tmp" in name or Path(name).name.startswith(".")]


def test_its_record_says_everything(default_run: Path) -> None:
    record: Any = read_record(default_run)
    assert set(record["policies"]) == {*RULES, "learned-order", "learned"}
    assert (record["learned"], record["seeds"], record["split"]) == ("learned", [0, 1], "test")
    assert record["bundle"] == "bundle"
    assert next(point["steps"] for point in record["learning_curve"]) == 0
    assert sum(point["chosen"] for point in record["learning_curve"]) == 1
    assert set(record["validation_rules_s"]) == set(RULES)
    assert record["command"].startswith("rlkv train --rounds 2 --order-rounds 1")
    assert record["wall_s"] > 0
    assert record["inputs"]["num_sessions"] == 40
    assert set(record["load_sweep"]["policies"]) == {*RULES, "learned-order", "learned"}
    (elsewhere,) = record["also"]
    assert elsewhere["scenario"] == "coding" and "learned" in elsewhere["policies"]


def test_its_bundle_can_be_loaded(default_run: Path) -> None:
    bundle = load_bundle(default_run / "bundle")
    assert bundle.policy.name == "learned" and bundle.policy.rule.name == "house"
    record: Any = read_record(default_run)
    assert bundle.metadata["results"]["best_rule"] == record["best_rule"]
    assert bundle.metadata["trained_on"]["scenario"] == "crossover-slow"
    assert bundle.metadata["recipe"] == "forked-ppo"
    mean = record["policies"]["learned"]["normalized_latency_s"]["mean"]
    assert bundle.metadata["results"]["normalized_latency_s"]["mean"] == mean


def test_its_record_replays(default_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "eval", "--replay", default_run, "--json")
    replayed = json.loads(out)
    assert code == 0 and replayed["agrees"]
    assert (
        len(replayed["policies"]) == 2 * (len(RULES) + 1) + 1
    )  # the order alone is judged where it was learnt


@pytest.mark.usefixtures("no_pictures")
def test_it_can_be_resumed_to_more_rounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("train", "--scenario", "crossover-slow", *QUICK)
    out = tmp_path / "parts"
    assert run(capsys, *options, "--rounds", 2, "--out", out)[0] == 0
    code, printed, _ = run(capsys, *options, "--rounds", 4, "--out", out, "--resume", "--json")
    assert code == 0
    record = json.loads(printed)
    # The start, the order, and the verbs after two rounds and after four.
    assert len(record["learning_curve"]) == 6
    assert record["policies"] == json.loads((out / "record.json").read_text())["policies"]
    assert run(capsys, *options, "--rounds", 4, "--out", tmp_path / "whole")[0] == 0
    for name in ("checkpoint/4.state.safetensors", "bundle/weights.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # Another seed, another load: not this run.
    for change in (("--seed", "1"), ("--rate", "7")):
        before = contents(out)
        refused = run(capsys, *options, "--rounds", 6, "--out", out, "--resume", *change)
        assert_refused(refused, "progress.json: the checkpoint has")
        assert contents(out) == before


def test_on_another_machine_and_in_a_closed_loop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = small_machine_toml(tmp_path)
    code, out, _ = run(
        capsys, "train", "--profile", machine, "--workload", "infercept", "--concurrent", 6,
        "--rounds", 1, "--order-rounds", 1, "--seeds", 1, "--sessions", 20, "--json",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0
    record = json.loads(out)
    assert record["scenario"] == "infercept@small-closed6"
    # A closed loop has no load to vary, and a named machine is not judged elsewhere.
    assert "load_sweep" not in record and "also" not in record
    assert run(capsys, "eval", "--replay", tmp_path / "run")[0] == 0


@pytest.mark.usefixtures("no_pictures")
def test_interrupted_it_leaves_what_it_has_learnt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("train", "--scenario", "crossover-slow", *QUICK)
    finish_round = ForkedLearner.run_round

    def interrupted(self: ForkedLearner, number: int) -> dict[str, float]:
        if number == 3:
            raise KeyboardInterrupt
        return finish_round(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ForkedLearner, "run_round", interrupted)
        code, out, err = run(capsys, *options, "--rounds", 4, "--out", tmp_path / "run")
    assert code == 130
    assert "Traceback" not in err
    assert out == ""
    checkpoint = tmp_path / "run" / "checkpoint"
    said = f"stopped: 2 rounds are kept in {checkpoint}, go on with --resume"
    assert err.splitlines()[-1] == said
    assert set(contents(tmp_path / "run")) == {
        "checkpoint/progress.json", "checkpoint/2.state.safetensors",
        "checkpoint/2.best.safetensors",
    }  # fmt: skip
    assert run(capsys, *options, "--rounds", 4, "--out", tmp_path / "run", "--resume")[0] == 0
    assert run(capsys, *options, "--rounds", 4, "--out", tmp_path / "whole")[0] == 0
    name = "checkpoint/4.state.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.usefixtures("no_pictures")
def test_interrupted_before_its_first_checkpoint_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    options = ("train", "--scenario", "crossover-slow", *TINY, "--out", tmp_path, "--json")
    for earlier in (False, True):
        before = contents(tmp_path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ForkedLearner, "run_round", interrupt)
            code, out, err = run(capsys, *options)
        assert (code, out) == (130, "")
        said = "stopped before the first checkpoint: nothing was kept"
        kept = "; an earlier run's is as it was" if earlier else ""
        assert err.splitlines()[-1] == said + kept
        assert contents(tmp_path) == before
        assert run(capsys, *options)[0] == 0


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_until_the_new_results_are_whole_the_earlier_ones_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], failure: type[BaseException]
) -> None:
    options = ("train", "--scenario", "crossover-slow", *TINY, "--out", tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlkv.report.write.draw_pictures", lambda record: {})
        assert run(capsys, *options)[0] == 0
    before = {name: c for name, c in contents(tmp_path).items() if "checkpoint" not in name}
    assert {"bundle/bundle.json", "record.json", "report.html"} <= set(before)

    def fail(*args: object) -> None:
        raise failure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlkv.report.write.draw_pictures", fail)
        if failure is KeyboardInterrupt:
            code, _, err = run(capsys, *options, "--seed", 1)
            assert code == 130 and "go on with --resume" in err
        else:
            with pytest.raises(failure):
                run(capsys, *options, "--seed", 1)
    after = {name: c for name, c in contents(tmp_path).items() if "checkpoint" not in name}
    assert after == before


def test_interrupted_from_on_progress_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = train_module.train

    def interrupting(*args: Any, on_progress: Any, **options: Any) -> Any:
        def stop(stage: str, done: int, total: int) -> None:
            on_progress(stage, done, total)
            if (stage, done) == ("train", 2):
                raise KeyboardInterrupt

        return train(*args, on_progress=stop, **options)

    monkeypatch.setattr(train_module, "train", interrupting)
    code, _, err = run(
        capsys, "train", "--scenario", "crossover-slow", *TINY, "--out", tmp_path / "run"
    )
    assert code == 130 and "Traceback" not in err
    progress = json.loads((tmp_path / "run" / "checkpoint" / "progress.json").read_text())
    assert progress["rounds_done"] == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--scenario", "nope"], "unknown scenario 'nope': one of"),
        (["--profile", "nope"], "no profile 'nope'"),
        (["--workload", "nope"], "unknown workload 'nope': one of"),
        (["--recipe", "nope"], "unknown recipe 'nope': one of forked-ppo, ppo"),
        (["--seed", "-1"], "seed must be 0 or more, got -1"),
        (["--rounds", "0"], "rounds must be 1 or more, got 0"),
        (["--warm-start", "nowhere"], "nowhere/bundle.json"),
        (["--seeds", "0"], "--seeds must be 1 to 10000, got 0"),
        (["--seeds", "-3"], "--seeds must be 1 to 10000, got -3"),
        (["--sessions", "0"], "at least 1 session, got 0"),
        (["--sessions", "99999999999"], "--sessions must be at most 1000000"),
        (["--rate", "-1"], "rate must be positive, got -1.0"),
        (["--rate", "0", "--workload", "crossover"], "rate must be positive, got 0.0"),
        (["--rate", "1", "--concurrent", "2"], "--rate and --concurrent exclude each other"),
        (["--concurrent", "0"], "num_concurrent must be 1 or more, got 0"),
        (["--trace", "t.jsonl", "--scenario", "coding"], "--trace replaces"),
        (["--resume"], "checkpoint/progress.json: no checkpoint to resume from"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    named: str,
) -> None:
    def fail(*args: object) -> None:
        raise AssertionError("work was done first")

    monkeypatch.setattr(train_module, "tune_all", fail)
    assert_refused(run(capsys, "train", *options, "--out", tmp_path / "run"), named)


def test_a_session_larger_than_the_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = small_machine_toml(tmp_path, num_device_blocks=20)
    refused = run(capsys, "train", "--profile", machine, *TINY, "--out", tmp_path / "run")
    assert_refused(refused, "tokens of KV, the device pool of small holds 320")


def test_a_profile_without_a_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = small_machine_toml(tmp_path, num_device_blocks=0)
    refused = run(capsys, "train", "--profile", machine, *TINY, "--out", tmp_path / "run")
    assert_refused(refused, "small.toml:4: num_device_blocks must be")


@pytest.mark.parametrize("below", ["run", "run/deeper", ""])
def test_a_folder_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    (tmp_path / "file").write_text("here first")
    refused = run(capsys, "train", *TINY, "--out", tmp_path / "file" / below)
    assert_refused(refused, "cannot write there")
    assert contents(tmp_path) == {"file": b"here first"}


def test_a_run_that_fails_keeps_the_results_of_an_earlier_one(
    default_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = contents(default_run)
    machine = small_machine_toml(tmp_path, num_device_blocks=20)
    for options in (["--profile", str(machine)], ["--seeds", "0"], ["--recipe", "nope"]):
        assert run(capsys, "train", *TINY, *options, "--out", default_run)[0] == 2
        assert contents(default_run) == before


def test_what_is_tuned_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--scenario", "crossover-slow", "--sessions", 20, "--rule", "lazy-swap")
    path = tmp_path / "made" / "tuned.json"
    code, out, _ = run(capsys, "tune", *options, "--rule", "lru", "--out", path, "--json")
    assert code == 0
    assert json.loads(out) == json.loads(path.read_text())
    rules = json.loads(out)["rules"]
    assert list(rules) == ["lazy-swap", "lru"]
    assert rules["lazy-swap"]["num_candidates"] == 6
    code, out, _ = run(capsys, "tune", *options)
    assert code == 0 and "lazy-swap" in out and "guard_pauses=" in out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--rule", "nope"], "unknown rule 'nope': one of preserve"),
        (["--scenario", "nope"], "unknown scenario 'nope'"),
        (["--sessions", "-1"], "at least 1 session, got -1"),
        (["--rule", "lru", "--out", "{file}/tuned.json"], "cannot write there"),
    ],
)
def test_what_cannot_be_tuned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], named: str
) -> None:
    (tmp_path / "file").write_text("")
    options = [option.format(file=tmp_path / "file") for option in options]
    assert_refused(run(capsys, "tune", *options), named)
