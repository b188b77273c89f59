"""Memory of whole processes: a training run, and the evaluation of a long trace."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from rlkv_engine.errors import RlkvError

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_PR_SET_THP_DISABLE = 41  # linux/prctl.h


def training_peak_rss_bytes(scenario: str, num_sessions: int, num_rounds: int) -> float:
    """Largest resident set of ``rlkv train`` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "--scenario": scenario,
            "--sessions": str(num_sessions),
            "--rounds": str(num_rounds),
            "--seeds": "2",
            "--out": folder,
        }
        arguments = [part for option in options.items() for part in option]
        command = [sys.executable, "-m", "rlkv", "train", *arguments]
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                errors.seek(0)
                last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
                raise RlkvError(f"rlkv train ended with {process.returncode}: {' '.join(last)}")
    # Kilobytes on Linux, bytes on macOS.
    return float(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def evaluation_growth_bytes(num_sessions: int) -> dict[str, float]:
    """Evaluates a trace in a process of its own.

    Returns:
        ``growth_bytes``: how far the largest resident set lies above the one with the trace alone.
        ``trace_bytes``: the size of the trace's arrays.
    """
    command = [sys.executable, "-m", "rlkv.bench.memory", str(num_sessions)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = " ".join(done.stderr.strip().splitlines()[-1:])
        raise RlkvError(f"evaluating {num_sessions} sessions failed: {last}")
    weighed: dict[str, float] = json.loads(done.stdout)
    return weighed


def _weigh(num_sessions: int) -> dict[str, float]:
    _avoid_huge_pages()
    from rlkv_agents.evaluate import run_policy
    from rlkv_agents.house_rule import House
    from rlkv_agents.policy import AgentPolicy
    from rlkv_envs.scenario import load_scenario

    # A load under which the queue does not grow with the length of the trace: nothing else does,
    # but a queue of returned sessions needs slots.
    scenario = load_scenario("crossover").at_rate(2.0).with_sessions(100)
    policy = AgentPolicy("house", House())
    # What is loaded and compiled once is not the trace's.
    run_policy(scenario, policy, scenario.trace(1, "test"))
    trace = scenario.with_sessions(num_sessions).trace(0, "test")
    _return_freed_memory()
    before = psutil.Process().memory_info().rss
    _forget_peak()
    run_policy(scenario, policy, trace)
    return {"growth_bytes": float(_peak_rss() - before), "trace_bytes": float(trace.num_bytes)}


def _avoid_huge_pages() -> None:
    # The kernel would fill the large arrays of a long trace up to whole pages of 2 MB, at any time.
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # not glibc
            ctypes.CDLL("libc.so.6").prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)


def _return_freed_memory() -> None:
    # What drawing the trace has freed must not hide what the evaluation takes.
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # not glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _forget_peak() -> None:
    # Linux: the peak of the resident set starts anew.
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def _peak_rss() -> int:
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    print(json.dumps(_weigh(int(sys.argv[1]))))
