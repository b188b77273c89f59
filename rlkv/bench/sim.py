"""How fast the engine is: iterations and decisions per second of one core."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np

from rlkv.bench.measure import Size
from rlkv.bench.reference import reference_speedup
from rlkv_agents.house_rule import House
from rlkv_engine import state as S
from rlkv_engine.engine import Engine
from rlkv_engine.loop import RULE_POLICY, Policy, make_policy
from rlkv_engine.observe import NUM_FEATURES
from rlkv_engine.profile import Profile, load_profile
from rlkv_envs.scenario import Scenario, closed_loop
from rlkv_envs.workloads import make_workload

PROFILE = "gptj-6b-a100-40gb"
#: Sessions for which the profile's pools and budgets are taken as they are.
BASE_CONCURRENT = 128
#: Times that memory with which nobody is ever short of it.
ROOMY = 8.0
HIDDEN = 64
_COUNTERS = {
    "decisions": S.NUM_DECISIONS,
    "preemptions": S.NUM_PREEMPTIONS,
    "blocks_out": S.BLOCKS_OUT,
    "blocks_in": S.BLOCKS_IN,
}


def profile_for(num_concurrent: int, memory: float = 1.0) -> Profile:
    """The profile with pools and budgets in proportion to the sessions in the system.

    So memory is as short for each session at every size: with ``memory`` 1 it holds about a third
    of what all of them want.
    """
    base = load_profile(PROFILE)
    part = num_concurrent / BASE_CONCURRENT
    num_device_blocks = round(base.num_device_blocks * part * memory)
    max_num_seqs = max(2 * num_concurrent, 16)
    return replace(
        base,
        # At least two sessions of the longest context, 2048 tokens, fit.
        num_device_blocks=max(num_device_blocks, 2 * 2048 // base.block_size),
        num_host_blocks=max(round(base.num_host_blocks * part), 1),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max(round(base.max_num_batched_tokens * part), max_num_seqs),
    )


def sim(size: Size) -> dict[str, Any]:
    """Iterations/s against the number of sessions, and decisions/s, on a loop under pressure."""
    figures: dict[str, float] = {}
    conditions: dict[str, Any] = {}
    for num_concurrent in size.concurrent:
        run = ClosedRun(profile_for(num_concurrent), num_concurrent, size.iterations)
        speed = run.measure(RULE_POLICY, size.repetitions)
        figures[f"iterations_per_s_{num_concurrent}"] = speed["iterations_per_s"]
        conditions[str(num_concurrent)] = _conditions(speed)
        if num_concurrent == BASE_CONCURRENT or len(size.concurrent) == 1:
            figures["decisions_per_s"] = speed["decisions_per_s"]
            learned = run.measure(_network(), size.repetitions)
            figures["decisions_per_s_network"] = learned["decisions_per_s"]
            for name, profile, log_rows in (
                # With a log every iteration is run by itself.
                ("no_sprint", profile_for(num_concurrent), 1),
                ("memory_for_all", profile_for(num_concurrent, ROOMY), 0),
                ("memory_for_all_no_sprint", profile_for(num_concurrent, ROOMY), 1),
            ):
                variant = ClosedRun(profile, num_concurrent, size.iterations, log_rows)
                speed = variant.measure(RULE_POLICY, size.repetitions)
                key = f"{num_concurrent}_{name}"
                figures[f"iterations_per_s_{key}"] = speed["iterations_per_s"]
                conditions[key] = _conditions(speed)
    if size.reference_sessions:
        speedup = reference_speedup(size.reference_sessions)
        if speedup is not None:
            figures["speedup_over_python"] = speedup
    return {
        "figures": figures,
        "measured_on": {
            "profile": f"{PROFILE}, pools and budgets x sessions / {BASE_CONCURRENT}",
            "workload": "crossover, closed loop",
            "rule": House.name,
            "repetitions": size.repetitions,
            "network": f"{NUM_FEATURES} -> {HIDDEN} -> {HIDDEN} -> 3",
            "runs": conditions,
        },
    }


def _network() -> Policy:
    """A network of the trained size; zeros, so that it answers as the rule does."""
    shapes = ((HIDDEN, NUM_FEATURES), HIDDEN, (HIDDEN, HIDDEN), HIDDEN, (3, HIDDEN), 3)
    return make_policy([np.zeros(shape) for shape in shapes], prior=1.0)


def _conditions(speed: dict[str, float]) -> dict[str, float]:
    """What happened in the stretch that was measured, for each 1000 iterations."""
    kilo = speed["iterations"] / 1000
    return {"iterations": speed["iterations"], "cpu_s": speed["cpu_s"]} | {
        f"{name}_per_1000_iterations": speed[name] / kilo for name in _COUNTERS
    }


class ClosedRun:
    """A closed loop of crossover sessions under the house rule, past its start."""

    def __init__(
        self, profile: Profile, num_concurrent: int, iterations: int, log_rows: int = 0
    ) -> None:
        part = BASE_CONCURRENT / num_concurrent
        self._iterations = round(iterations * min(part, 2.0))
        # A session is in the system for 400 iterations or more.
        num_sessions = 4 * num_concurrent + round(self._iterations * num_concurrent / 400)
        scenario = Scenario(
            "bench", profile, make_workload("crossover"), rate_per_s=1.0, num_sessions=num_sessions
        )
        trace = closed_loop(scenario, num_concurrent).trace(seed=0, split="test")
        table = scenario.table
        self._engine = Engine(profile, trace, House().params(table), table=table, log_rows=log_rows)
        # Past the start, when all sessions have just arrived.
        while self._engine.state.n[S.NUM_FINISHED] < num_concurrent:
            self._engine.run(RULE_POLICY, self._engine.now_s + 1.0)

    def measure(self, policy: Policy, repetitions: int) -> dict[str, float]:
        """Medians over repetitions of the same stretch of the run; compiling is not counted."""
        engine = self._engine.fork()
        before = engine.state.n.copy()
        goal = before[S.ITERATION] + self._iterations
        while engine.state.n[S.ITERATION] < goal and not engine.run(policy, engine.now_s + 1.0):
            pass
        until_s, after = engine.now_s, engine.state.n.copy()
        durations = []
        for _ in range(repetitions):
            engine = self._engine.fork()
            start = time.process_time()
            engine.run(policy, until_s)
            durations.append(time.process_time() - start)
        cpu_s = statistics.median(durations)
        counts = {name: float(after[i] - before[i]) for name, i in _COUNTERS.items()}
        iterations = float(after[S.ITERATION] - before[S.ITERATION])
        return counts | {
            "iterations": iterations,
            "cpu_s": cpu_s,
            "iterations_per_s": iterations / cpu_s,
            "decisions_per_s": counts["decisions"] / cpu_s,
        }
