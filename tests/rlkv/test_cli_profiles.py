from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import rlkv
from rlkv_engine.errors import InputError, IntegrityError
from rlkv_engine.profile import load_profile, shipped_profiles
from tests.rlkv.command_line import run


def test_list_names_every_shipped_profile(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "profiles", "list")
    assert (code, err) == (0, "")
    assert all(name in out for name in shipped_profiles())


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "profiles", "list", "--json")
    assert code == 0
    assert [profile["name"] for profile in json.loads(out)] == shipped_profiles()


def test_show_prints_value_unit_and_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    code, out, _ = run(capsys, "profiles", "show", "gptj-6b-a100")
    assert code == 0
    (row,) = [line for line in out.splitlines() if line.strip().startswith("iteration_s")]
    assert row.split()[1:3] == ["0.01", "s"]
    assert load_profile("gptj-6b-a100").sources["iteration_s"] in row


def test_show_as_json_holds_every_number_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "profiles", "show", "gptj-6b-a100+link0.125", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["name"] == "gptj-6b-a100+link0.125"
    assert shown["swap_in_bytes_per_s"] == 1.25e9
    assert shown["sources"]["iteration_s"]


def test_unusable_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("num_device_blocks = many\n")
    code, out, err = run(capsys, "profiles", "show", str(path))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {path}:1: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["profiles", "shwo"], "No such command 'shwo'"),
        (["nope"], "No such command 'nope'"),
        (["train", "--nope"], "No such option: --nope"),
        (["train", "--rounds", "x"], "'--rounds'"),
        (["train", "--seed"], "--seed"),
        (["profiles", "show"], "name"),
        (["profiles", "list", "extra"], "extra"),
    ],
)
def test_usage_errors_are_one_line_too(
    capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert named in err and "--help)" in err


@pytest.mark.parametrize("arguments", [[], ["profiles"]])
def test_no_command_at_all_shows_the_help(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (2, "")
    assert out.count("Usage:") == 1 and "--help" in out


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_asked_for_is_no_mistake(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "") and "Usage:" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"{rlkv.__version__}\n", "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("too long", path="a.csv", line=3), 2, "error: a.csv:3: too long\n"),
        (IntegrityError("3 blocks lost"), 1, "error: 3 blocks lost\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_exit_codes(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr("rlkv.cli.profiles.load_profile", fail)
    assert run(capsys, "profiles", "list") == (code, "", line)


def test_being_terminated_is_being_interrupted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = []

    def end(name: str) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:  # nothing of this would be done by a process that SIGTERM ends
            stopped.append(name)

    monkeypatch.setattr("rlkv.cli.profiles.load_profile", end)
    before = signal.getsignal(signal.SIGTERM)
    assert run(capsys, "profiles", "list") == (130, "", "")
    assert stopped
    assert signal.getsignal(signal.SIGTERM) is before


def test_runs_as_a_module() -> None:
    root = Path(__file__).parents[2]
    process = subprocess.run(
        [sys.executable, "-m", "rlkv", "--version"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "engine")])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (process.returncode, process.stdout) == (0, f"{rlkv.__version__}\n")
