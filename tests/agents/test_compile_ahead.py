"""What a second process compiles while the first is at the rest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlkv_agents import compile_ahead
from rlkv_agents.evaluate import run_policy
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import make_rule
from rlkv_engine.events import process_events
from rlkv_engine.iteration import iterate
from rlkv_engine.loop import policy_verb
from rlkv_engine.sprint import sprint
from tests.agents.small_scenario import small_scenario

SCENARIO = small_scenario()


def test_it_compiles_what_runs_call_and_nothing_else() -> None:
    run_policy(SCENARIO, AgentPolicy("house", make_rule("house")), SCENARIO.trace(0, "train"))
    functions: Sequence[Any] = (process_events, iterate, policy_verb, sprint)
    before = [dict(function.stats.cache_misses) for function in functions]
    compile_ahead.compile_ahead()
    # Other types than those of a run would be compiled here, for nobody.
    assert [dict(function.stats.cache_misses) for function in functions] == before
    assert all(len(function.signatures) == 1 for function in functions)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_process_helps_where_nothing_is_compiled_yet(
    is_compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = SimpleNamespace(__name__="watch", _cache=SimpleNamespace(cache_path=tmp_path))
    monkeypatch.setattr(compile_ahead, "_LAST", last)
    if is_compiled:
        (tmp_path / "demonstrations.watch-70.py311.nbi").touch()
    helpers = []

    def start(command: list[str], **streams: Any) -> subprocess.Popen[bytes]:
        assert command == [sys.executable, "-m", compile_ahead.__name__]
        helpers.append(real([sys.executable, "-c", "import signal; signal.pause()"]))
        return helpers[-1]

    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", start)
    with compile_ahead.compiling_ahead():
        assert len(helpers) == (0 if is_compiled else 1)
        assert all(helper.poll() is None for helper in helpers)
    # It does not outlive what it is for.
    assert all(helper.returncode is not None for helper in helpers)
