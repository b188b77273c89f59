from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlkv.cli.pauses import RECORD_NAME
from rlkv_agents import pause_comparison
from rlkv_agents.pause_comparison import ESTIMATES
from rlkv_agents.pause_files import ARRAYS_FILE, METADATA_FILE, load_pauses
from rlkv_agents.tune import validation_traces
from rlkv_envs.scenario import PRESETS
from rlkv_envs.traces import write_trace
from tests.envs.paused_sessions import TOOLS, paused_sessions
from tests.rlkv.command_line import SMALL_PRESET, assert_refused, contents, run


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sessions = paused_sessions(900)
    path = tmp_path_factory.mktemp("trace") / "sessions.jsonl"
    write_trace(sessions.with_arrivals(np.arange(sessions.num_sessions, dtype=float)), path)
    return path


@pytest.fixture
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pause_comparison, "GRID", {"guard_pauses": (0.0, 0.5)})
        patch.setattr(pause_comparison, "validation_traces", lambda s: validation_traces(s, 2))
        small = replace(SMALL_PRESET, suite="trained", workload="infercept")
        patch.setitem(PRESETS, "small", small)
        yield


@pytest.mark.pictures
def test_fit(capsys: pytest.CaptureFixture[str], trace: Path, tmp_path: Path) -> None:
    folder, png = tmp_path / "pauses", tmp_path / "calibration.png"
    arguments = ("pauses", "fit", "--trace", trace)
    code, out, err = run(capsys, *arguments, "--out", folder, "--png", png, "--json")
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert list(figures) == list(ESTIMATES[:3])
    assert figures["predicted"]["log_likelihood"] > figures["tool"]["log_likelihood"]
    assert png.read_bytes().startswith(b"\x89PNG")
    written = contents(folder)
    assert sorted(written) == [METADATA_FILE, ARRAYS_FILE]
    assert set(load_pauses(folder).tools) == set(TOOLS)
    code, out, err = run(capsys, *arguments, "--out", tmp_path / "again")
    assert (code, err) == (0, "")
    assert f"{figures['predicted']['explained_variance']:.3f}" in out
    assert contents(tmp_path / "again") == written


def test_compare(capsys: pytest.CaptureFixture[str], tmp_path: Path, quick: None) -> None:
    arguments = ("pauses", "compare", "--scenarios", "small", "--workers", 1, "--out", tmp_path)
    code, said, _ = run(capsys, *arguments, "--seeds", 3)
    assert code == 0
    assert "predicted" in said and "small" in said
    record = json.loads((tmp_path / RECORD_NAME).read_text())
    assert [row["load"] for row in record["latency"]] == [1.0, 1.1]
    slow, fast = (row["rate_per_s"] for row in record["latency"])
    assert fast == pytest.approx(1.1 * slow)
    assert list(record["latency"][0]["by"]) == list(ESTIMATES)
    assert len(record["latency"][0]["by"]["truth"]["by_seed_s"]) == 3
    assert list(record["statistics"]) == ["infercept"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pause_comparison, "evaluate", None)  # nothing is run again
        code, again, _ = run(capsys, *arguments, "--seeds", 3, "--json")
    assert code == 0
    assert json.loads(again)["latency"] == record["latency"]


def test_what_is_refused(capsys: pytest.CaptureFixture[str], trace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pauses"
    assert_refused(run(capsys, "pauses", "fit", "--out", folder), "--trace or --workload")
    both = ("--trace", trace, "--workload", "crossover")
    assert_refused(run(capsys, "pauses", "fit", "--out", folder, *both), "give one of them")
    assert not folder.exists()
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "folder"
    assert_refused(run(capsys, "pauses", "fit", "--out", inside, "--trace", trace), str(inside))
    compare = ("pauses", "compare", "--out", folder)
    assert_refused(run(capsys, *compare, "--seeds", 0), "--seeds must be")
    assert_refused(run(capsys, *compare, "--workers", 0), "--workers must be")
    assert_refused(run(capsys, *compare, "--loads", "1,x"), "'x' is not a number")
    assert_refused(run(capsys, *compare, "--loads", "0"), "above 0")
    assert_refused(run(capsys, *compare, "--scenarios", "nowhere"), "nowhere")
    assert not folder.exists()
    assert_refused(run(capsys, "pauses", "compare", "--out", inside), str(inside))


def test_online_says_losses_and_shares(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("pauses", "online", "--workload", "crossover", "--sessions", "60")
    code, out, _ = run(capsys, *words)
    assert code == 0 and "crossover" in out and "ratio" in out
    code, out, _ = run(capsys, *words, "--json")
    assert code == 0 and json.loads(out)["num_pauses"] > 50
    assert_refused(run(capsys, "pauses", "online"), "say whose pauses")
    assert_refused(run(capsys, *words[:-1], "5"), "100 are needed to judge predictions")
