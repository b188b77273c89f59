"""``rlkv calibrate`` as a user runs it, on a model made in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlkv.calibration import Sizes, calibrate, profile_toml
from rlkv_engine.errors import InputError
from rlkv_engine.profile import load_profile
from tests.engine.paged.summing_model import summing_model
from tests.rlkv.command_line import run

SMALL = ("--device-blocks", 40, "--host-blocks", 40, "--max-num-seqs", 3, "--rounds", 1)


@pytest.mark.pictures
def test_a_measured_profile_is_one_that_every_command_takes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = run(capsys, "calibrate", "tiny", "--out", tmp_path, *SMALL, "--json")
    assert code == 0, err
    profile = load_profile(tmp_path / "profile.toml")
    assert profile.iteration_s > 0 and profile.kv_bytes_per_token == 1024
    assert profile.swap_out_bytes_per_s > 1e6
    assert profile.sources["iteration_s"].startswith("measured: least squares on")
    record = json.loads(out)
    assert record["profile"]["iteration_s"] == profile.iteration_s
    assert 0.5 < record["total_ratio"] < 2.0
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")
    code, out, err = run(capsys, "profiles", "show", tmp_path / "profile.toml")
    assert code == 0 and "least squares" in out, err


def test_it_goes_on_from_what_was_measured(tmp_path: Path) -> None:
    loaded, sizes = summing_model(), Sizes(4, 64, 64, 3, 32)
    first = calibrate(loaded, sizes, rounds=1, folder=tmp_path)  # type: ignore[arg-type]
    path = tmp_path / "measured.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    # As if it had been interrupted in the middle of a line.
    path.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    second = calibrate(loaded, sizes, rounds=1, folder=tmp_path)  # type: ignore[arg-type]
    assert path.read_bytes().splitlines(keepends=True)[:4] == lines[:4]
    assert len(second.iterations) == len(first.iterations)
    third = calibrate(loaded, sizes, rounds=1, folder=tmp_path)  # type: ignore[arg-type]
    assert third.iterations == second.iterations and third.profile == second.profile


def test_measurements_of_something_else_are_refused(tmp_path: Path) -> None:
    loaded = summing_model()
    calibrate(loaded, Sizes(4, 64, 64, 3, 32), rounds=1, folder=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="measurements of another model or other sizes"):
        calibrate(loaded, Sizes(4, 64, 64, 4, 32), rounds=1, folder=tmp_path)  # type: ignore[arg-type]
    (tmp_path / "measured.jsonl").write_text("nonsense\n")
    with pytest.raises(InputError, match="holds no measurements"):
        calibrate(loaded, Sizes(4, 64, 64, 3, 32), rounds=1, folder=tmp_path)  # type: ignore[arg-type]


def test_a_profile_reads_back_as_it_was(tmp_path: Path) -> None:
    profile = load_profile("llama3-8b-h100")
    path = tmp_path / "copy.toml"
    path.write_text(profile_toml(profile))
    copy = load_profile(path)
    assert copy == profile and dict(copy.sources) == dict(profile.sources)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("no-such-model",), "no model: neither 'tiny', nor a folder, nor a .gguf file"),
        (("tiny", "--rounds", 0), "--rounds must be at least 1, got 0"),
        (("tiny", "--dtype", "int8"), "dtype must be one of float32, bfloat16, float16"),
        (("tiny", "--device", "cuda"), "torch finds no CUDA device"),
        (("tiny", "--threads", 0), "threads must be at least 1, got 0"),
        (("tiny", "--block-size", 0), "block_size must be a finite number at least 1 (got 0)"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[object, ...], reason: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(capsys, "calibrate", *arguments, "--out", tmp_path)
    assert code == 2 and reason in err and "Traceback" not in err
