"""Runs the command line inside the test process, on scenarios that take moments."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlkv import cli
from rlkv.cli.app import build_app
from rlkv_engine.errors import InputError
from rlkv_envs.scenario import PRESETS, Preset

#: Memory is short on it, and both its machine and its workload can be named in a record.
SMALL_PRESET = Preset(
    "gptj-6b-a100-40gb+link0.125", "crossover", 20.0, 40, "forty sessions at once"
)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``rlkv ARGUMENTS``."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rlkv", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
    captured = capsys.readouterr()
    code = exited.value.code
    assert isinstance(code, int)
    return code, captured.out, captured.err


def printed(*arguments: object) -> str:
    """What ``rlkv ARGUMENTS`` prints; its ``InputError`` goes through."""
    result = CliRunner().invoke(build_app(), [str(argument) for argument in arguments])
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def make_quick(patch: pytest.MonkeyPatch) -> None:
    """Small presets, short grids, two validation traces and rounds of little work."""
    from rlkv_agents import train
    from rlkv_agents.forked_learner import ForkedLearner
    from rlkv_agents.house_rule import Clairvoyant, House
    from rlkv_agents.rules import RULES
    from rlkv_agents.tune import validation_traces

    for name in ("crossover-slow", "coding"):
        patch.setitem(PRESETS, name, SMALL_PRESET)
    for rule in RULES.values():
        patch.setattr(rule, "grid", {k: v for k, v in rule.grid.items() if k != "slack_ratio"})
    for rule in (House, Clairvoyant):
        patch.setattr(rule, "grid", {"guard_pauses": (0.0, 0.5), "write_through": (0.0, 1.0)})
    patch.setattr(train, "validation_traces", lambda scenario: validation_traces(scenario, 2))
    patch.setattr(ForkedLearner, "traces_per_round", 2)
    patch.setattr(ForkedLearner, "forks_per_trace", 60)


def small_machine_toml(folder: Path, num_device_blocks: int = 500) -> Path:
    path = folder / "small.toml"
    path.write_text(
        'base = "gptj-6b-a100-40gb"\nname = "small"\ndescription = "fills up soon"\n'
        f"num_device_blocks = {num_device_blocks}\nnum_host_blocks = 200\nlink = 0.125\n"
    )
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_refused(result: tuple[int, str, str], named: str) -> None:
    """Exit code 2, and one line on standard error that says what is wrong."""
    code, out, err = result
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert named in err
