"""Processes that need the same function at the same time: one compiles it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from rlkv_engine import compile_in_turn
from rlkv_engine.compile_in_turn import turn

ROOT = Path(__file__).parents[2]

FUNCTIONS = """
from rlkv_engine.jit import jit

@jit
def inner(n):
    return n + 1

@jit
def outer(n):
    return outer(n - 100) if n > 100 else inner(n)
"""
# Says that it compiles, and goes on when it is told to.
PROGRAM = """
import sys
from numba.core import event
from functions import outer

class Told(event.Listener):
    num = 0
    def on_start(self, _):
        Told.num += 1
        if Told.num == 1:
            print("compiles", flush=True)
            sys.stdin.readline()
    def on_end(self, _):
        pass

with event.install_listener("numba:compile", Told()):
    print(f"{outer(205)} after {Told.num}", flush=True)
"""


def line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().rstrip()


def waits_for_a_lock(process: subprocess.Popen[str]) -> bool:
    names = []
    for file in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            names.append(os.readlink(file))
        except FileNotFoundError:  # closed meanwhile
            continue
    return any(name.endswith(".lock") for name in names)


def until(holds: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 60.0
    while not holds():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


def test_one_compiles_and_the_other_reads_what_it_has_written(tmp_path: Path) -> None:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "engine")]),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    environment.pop("NUMBA_CACHE_DIR", None)

    def started() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    with started() as first:
        assert line(first.stdout) == "compiles"
        with started() as second:
            until(lambda: waits_for_a_lock(second))
            first.communicate("\n")
            assert line(second.stdout) == "6 after 0"
            second.communicate()
    assert first.returncode == second.returncode == 0


def test_nobody_waits_forever_or_for_what_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_in_turn, "PATIENCE_S", 0.0)
    with turn(tmp_path / "new" / "a.lock"), turn(tmp_path / "new" / "a.lock"):
        pass
    (tmp_path / "file").write_text("")
    with turn(tmp_path / "file" / "a.lock"):
        pass
