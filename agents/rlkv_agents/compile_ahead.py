"""The first minute on two cores: what training calls last is compiled in a process of its own.

Compiling is most of a first minute, and numba does it on one core. A second process begins with
what the first will come to last; as functions are compiled in turn and kept on the disk, each finds
what the other has done (``rlkv_engine/compile_in_turn.py``).
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import numpy as np

from rlkv_agents.demonstrations import Teacher, demonstrate, watch
from rlkv_agents.forking import fork_rollouts
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.policy_stack import policy_stack
from rlkv_engine.events import process_events
from rlkv_engine.iteration import iterate
from rlkv_engine.loop import policy_verb
from rlkv_engine.sprint import sprint
from rlkv_engine.state import one_engine
from rlkv_envs.scenario import load_scenario

#: What is compiled last of all.
_LAST: Any = watch


@contextmanager
def compiling_ahead() -> Iterator[None]:
    """Another process compiles meanwhile, where the disk does not hold everything yet."""
    cache = getattr(_LAST, "_cache", None)  # None: with NUMBA_DISABLE_JIT
    folder = cache and cache.cache_path
    if folder is None or any(Path(folder).glob(f"*.{_LAST.__name__}-*.nbi")):
        yield
        return
    silent = subprocess.DEVNULL
    helper = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=silent, stdout=silent, stderr=silent
    )
    try:
        yield
    finally:
        helper.terminate()
        helper.wait()


def compile_ahead() -> None:
    """Compile what an engine's loop calls last, then what forks and demonstrations call."""
    scenario = load_scenario("crossover-slow").with_sessions(2)
    traces = [scenario.trace(0, "train")]
    policy = AgentPolicy("any", House())
    engine = one_engine(policy_stack(scenario, policy, traces, num_engines=2), 0)
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (process_events, (engine,)),
        (iterate, (engine,)),
        (policy_verb, (engine, policy.compiled())),
        (sprint, (engine, math.inf)),
    ]
    for function, arguments in calls:
        types = [numba.typeof(each) for each in arguments]  # type: ignore[no-untyped-call]
        function.compile(tuple(types))
    rng = np.random.default_rng(0)
    fork_rollouts(scenario, policy, traces, forks_per_trace=1, horizon_s=1.0, rng=rng)
    demonstrate(
        Teacher(scenario, policy), policy, traces, obey_teacher=True, num_per_trace=4, rng=rng
    )


if __name__ == "__main__":
    compile_ahead()
