from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlkv_engine.errors import InputError
from rlkv_envs.scenario import Scenario
from rlkv_envs.traces import read_trace
from rlkv_envs.workloads import TraceWorkload
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.outcome_log import record_outcomes
from rlkv_service.resp import RespConnection
from tests.rlkv.command_line import assert_refused, contents, run, small_machine_toml
from tests.service.decision_log.logged import KEYS, drawn, log_decisions, messages_of
from tests.service.decision_log.test_session_trace import assert_same_sessions

SERVED = drawn(80)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rlkv-") as made:
        yield Path(made)


@pytest.fixture
def folder(short_folder: Path) -> Iterator[Path]:
    """Of an embedded server with a log in it, which runs no more."""
    server = EmbeddedValkey(short_folder)
    with RespConnection(server.url) as connection:
        record_outcomes(connection, KEYS, messages_of(SERVED))
        log_decisions(connection, ["a", "b"], [0, 0], ["bash", "[bold]odd"])
    server.stop()
    yield short_folder


def is_running(folder: Path) -> bool:
    from rlkv_service.redis_errors import RedisError
    from rlkv_service.redis_url import RedisURL

    try:
        RespConnection(RedisURL(path=str(folder / "valkey.sock")), 1.0).close()
    except RedisError:
        return False
    return True


def test_a_folder_is_exported_whether_its_server_runs_or_not(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "log", "export", "--data-dir", folder, "--out", tmp_path / "stopped")
    assert code == 0 and "2 decisions of 1 requests" in out and "80 ends" in out
    assert not is_running(folder)
    server = EmbeddedValkey(folder)
    try:
        assert (
            run(capsys, "log", "export", "--data-dir", folder, "--out", tmp_path / "runs")[0] == 0
        )
        url = f"unix://{folder}/valkey.sock"
        assert run(capsys, "log", "export", "--redis", url, "--out", tmp_path / "url")[0] == 0
        assert server.is_running
    finally:
        server.stop()
    stopped, runs, by_url = (contents(tmp_path / name) for name in ("stopped", "runs", "url"))
    assert stopped == runs == by_url
    assert set(runs) == {"decisions.parquet", "outcomes.parquet"}


def test_what_was_served_comes_back_as_a_trace(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "yesterday.jsonl"
    code, out, _ = run(capsys, "log", "export", "--data-dir", folder, "--as-trace", path)
    assert code == 0 and "80 sessions, 0 of them without an end" in out
    assert_same_sessions(read_trace(path), SERVED)
    from rlkv.log_traces import trace_from_log

    run(capsys, "log", "export", "--data-dir", folder, "--out", tmp_path / "parquet")
    for source in (tmp_path / "parquet", tmp_path / "parquet" / "outcomes.parquet", folder):
        again, _ = trace_from_log(str(source), tmp_path)
        assert_same_sessions(read_trace(again), SERVED)


def test_without_options_it_is_the_log_that_rlkv_serve_writes(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLKV_REDIS", raising=False)
    (tmp_path / "rlkv-data").symlink_to(folder)
    code, out, _ = run(capsys, "log", "stats", "--json")
    assert code == 0 and json.loads(out)["num_decisions"] == 2
    code, out, _ = run(capsys, "log", "export")
    assert code == 0 and out.startswith("rlkv-log: 2 decisions")
    assert set(contents(tmp_path / "rlkv-log")) == {"decisions.parquet", "outcomes.parquet"}
    # The environment says more than what would be taken without it, and less than an option.
    monkeypatch.setenv("RLKV_REDIS", f"unix://{tmp_path}/none.sock")
    code, out, err = run(capsys, "log", "stats")
    assert (code, out) == (1, "") and "none.sock" in err
    code, out, _ = run(capsys, "log", "stats", "--json", "--data-dir", folder)
    assert code == 0 and json.loads(out)["num_decisions"] == 2


def test_figures_are_a_table_or_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "log", "stats", "--data-dir", folder)
    assert (
        code == 0 and "PRESERVE" in out and "POLICY" in out and "its p90" in out and "to p90" in out
    )
    code, out, _ = run(capsys, "log", "stats", "--data-dir", folder, "--json")
    assert code == 0 and json.loads(out)["num_decisions"] == 2
    code, out, _ = run(
        capsys, "log", "stats", "--data-dir", folder, "--json", "--until", "2001-01-01"
    )
    assert code == 0 and json.loads(out)["num_decisions"] == 0
    code, out, _ = run(
        capsys, "log", "stats", "--data-dir", folder, "--json", "--since", "1h", "--engine", "other"
    )
    assert code == 0 and json.loads(out)["num_outcomes"] == 0


def test_a_run_is_trained_on_yesterdays_traffic(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What follows is a run like any other with --trace.
    trained: list[Scenario] = []

    def begin(scenario: Scenario, *_: object, **__: object) -> None:
        trained.append(scenario)
        raise InputError("far enough")

    monkeypatch.setattr("rlkv_agents.train.train", begin)
    parquet, out = tmp_path / "parquet", tmp_path / "run"
    run(capsys, "log", "export", "--data-dir", folder, "--out", parquet)
    options = ("--profile", small_machine_toml(tmp_path), "--out", out)
    for resume in ((), ("--resume",)):
        code, _, err = run(capsys, "train", "--from-log", parquet, *options, *resume)
        assert code == 2 and "far enough" in err
        assert ("80 sessions" in err) == (not resume)
        # The log may have grown, or gone: a run goes on with what it began with.
        for path in parquet.glob("*.parquet"):
            path.unlink()
    for scenario in trained:
        assert isinstance(scenario.workload, TraceWorkload)
        assert_same_sessions(scenario.workload.trace, SERVED)
        assert scenario.name == "trace:log-trace.jsonl"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("log", "stats"), "rlkv-data: no rlkv serve has kept its data there"),
        (("log", "stats", "--redis", "unix:///x", "--data-dir", "{folder}"), "give one of them"),
        (("log", "stats", "--data-dir", "{tmp}"), "no rlkv serve has kept its data there"),
        (("log", "stats", "--redis", "http://x"), "not redis://, rediss:// or unix://"),
        (
            ("log", "stats", "--data-dir", "{folder}", "--since", "soon"),
            "--since: 'soon' is neither",
        ),
        (
            ("log", "stats", "--redis", "unix:///x", "--since", "1h", "--until", "2h"),
            "is not before",
        ),
        (
            ("train", "--from-log", "{tmp}/none", "--out", "{tmp}/run"),
            "no such folder of an export",
        ),
        (("train", "--from-log", "{tmp}", "--out", "{tmp}/run"), "outcomes.parquet: cannot read"),
        (("train", "--from-log", "{tmp}", "--workload", "crossover"), "--from-log replaces"),
    ],
)
def test_what_makes_no_sense_is_refused(
    short_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLKV_REDIS", raising=False)
    said = [word.format(folder=short_folder, tmp=tmp_path) for word in words]
    assert_refused(run(capsys, *said), named)


def test_too_few_sessions_are_refused_with_their_number(
    short_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = EmbeddedValkey(short_folder)
    try:
        with RespConnection(server.url) as connection:
            record_outcomes(connection, KEYS, messages_of(drawn(6)))
        url = f"unix://{short_folder}/valkey.sock"
        result = run(capsys, "train", "--from-log", url, "--out", tmp_path)
        assert_refused(result, "6 sessions with known tokens in the log, 20 are needed")
        assert not (tmp_path / "log-trace.jsonl").exists()
    finally:
        server.stop()


def test_a_server_that_is_not_there_is_an_error_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    url = f"unix://user:secret@{tmp_path}/none.sock"
    code, out, err = run(capsys, "log", "stats", "--redis", url)
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert "cannot be reached" in err and "secret" not in err
