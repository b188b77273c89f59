from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rlkv_agents import pause_comparison
from rlkv_agents.pause_files import ARRAYS_FILE, METADATA_FILE, load_predictor
from rlkv_envs.traces import write_trace
from tests.agents.paused_sessions import TOOLS, paused_sessions
from tests.rlkv.command_line import assert_refused, contents, run, small_machine_toml


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sessions = paused_sessions(400)
    path = tmp_path_factory.mktemp("trace") / "sessions.jsonl"
    write_trace(sessions.with_arrivals(np.arange(sessions.num_sessions, dtype=float)), path)
    return path


@pytest.fixture
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pause_comparison, "GRID", {"guard_pauses": (0.0, 0.5)})
        patch.setattr(pause_comparison, "NUM_VALIDATION", 2)
        yield


def test_fit_and_eval(capsys: pytest.CaptureFixture[str], trace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pauses"
    code, out, err = run(capsys, "pauses", "fit", "--trace", trace, "--out", folder)
    assert (code, err) == (0, "")
    assert "fitted on" in out and "training sessions" in out
    written = contents(folder)
    assert sorted(written) == [METADATA_FILE, ARRAYS_FILE]
    assert set(load_predictor(folder).tools) == set(TOOLS)
    png = tmp_path / "calibration.png"
    arguments = ("pauses", "eval", folder, "--trace", trace)
    code, out, err = run(capsys, *arguments, "--png", png, "--json")
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert figures["predictor"]["log_likelihood"] > figures["table"]["log_likelihood"]
    assert png.read_bytes().startswith(b"\x89PNG")
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert f"{figures['predictor']['explained_variance']:.3f}" in out
    run(capsys, "pauses", "fit", "--trace", trace, "--out", tmp_path / "again")
    assert contents(tmp_path / "again") == written


def test_compare(
    capsys: pytest.CaptureFixture[str], trace: Path, tmp_path: Path, quick: None
) -> None:
    run(capsys, "pauses", "fit", "--trace", trace, "--out", tmp_path)
    machine = small_machine_toml(tmp_path)
    arguments = ("pauses", "compare", tmp_path, "--trace", trace, "--profile", machine)
    code, out, _ = run(capsys, *arguments, "--load", 1.3, "--seeds", 2, "--json")
    assert code == 0
    compared = json.loads(out)
    assert (compared["profile"], compared["num_seeds"]) == ("small", 2)
    assert compared["table"]["ratio"] == 1.0 and len(compared["truth"]["by_seed_s"]) == 2
    code, out, _ = run(capsys, *arguments, "--load", 1.3, "--seeds", 2)
    assert code == 0 and "predictor" in out


def test_what_is_refused(capsys: pytest.CaptureFixture[str], trace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pauses"
    assert_refused(run(capsys, "pauses", "fit", "--out", folder), "--trace or --workload")
    both = ("--trace", trace, "--workload", "crossover")
    assert_refused(run(capsys, "pauses", "fit", "--out", folder, *both), "give one of them")
    assert not folder.exists()
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "folder"
    assert_refused(run(capsys, "pauses", "fit", "--out", inside, "--trace", trace), str(inside))
    assert_refused(run(capsys, "pauses", "eval", folder, "--trace", trace), METADATA_FILE)
    run(capsys, "pauses", "fit", "--trace", trace, "--out", folder)
    compare = ("pauses", "compare", folder, "--trace", trace)
    assert_refused(run(capsys, *compare, "--seeds", 0), "--seeds must be")
    document = json.loads((folder / METADATA_FILE).read_text())
    document["format_version"] = 99
    (folder / METADATA_FILE).write_text(json.dumps(document))
    assert_refused(run(capsys, "pauses", "eval", folder, "--trace", trace), "99 is newer than")
