"""How fast the engine is: iterations and decisions per second of one core."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np

from rlkv.bench.measure import Size
from rlkv.bench.reference import reference_speedup
from rlkv_agents.rules import House
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
HIDDEN = 64


def profile_for(num_concurrent: int) -> Profile:
    """The profile with pools and budgets in proportion to the sessions in the system.

    So memory is as short for each session at every size: about a third of what all of them want.
    """
    base = load_profile(PROFILE)
    part = num_concurrent / BASE_CONCURRENT
    max_num_seqs = max(2 * num_concurrent, 16)
    return replace(
        base,
        # At least two sessions of the longest context, 2048 tokens, fit.
        num_device_blocks=max(round(base.num_device_blocks * part), 2 * 2048 // base.block_size),
        num_host_blocks=max(round(base.num_host_blocks * part), 1),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max(round(base.max_num_batched_tokens * part), max_num_seqs),
    )


def sim(size: Size) -> dict[str, Any]:
    """Iterations/s against the number of sessions, and decisions/s, on a loop under pressure."""
    figures: dict[str, float] = {}
    conditions: dict[str, Any] = {}
    for num_concurrent in size.concurrent:
        run = ClosedRun(num_concurrent, size.iterations)
        speed = run.measure(RULE_POLICY, size.repetitions)
        figures[f"iterations_per_s_{num_concurrent}"] = speed["iterations_per_s"]
        conditions[str(num_concurrent)] = run.conditions(speed)
        if num_concurrent == BASE_CONCURRENT or len(size.concurrent) == 1:
            figures["decisions_per_s"] = speed["decisions_per_s"]
            slow = ClosedRun(num_concurrent, size.iterations, log_rows=1)
            each = slow.measure(RULE_POLICY, size.repetitions)
            figures[f"iterations_per_s_{num_concurrent}_no_sprint"] = each["iterations_per_s"]
            weights = [
                np.zeros(shape)
                for shape in ((HIDDEN, NUM_FEATURES), HIDDEN, (HIDDEN, HIDDEN), HIDDEN)
            ]
            network = make_policy([*weights, np.zeros((3, HIDDEN)), np.zeros(3)], prior=1.0)
            learned = run.measure(network, size.repetitions)
            figures["decisions_per_s_network"] = learned["decisions_per_s"]
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


class ClosedRun:
    """A closed loop of crossover sessions under the house rule, past its start."""

    def __init__(self, num_concurrent: int, iterations: int, log_rows: int = 0) -> None:
        profile = profile_for(num_concurrent)
        # A session takes about 6 turns of 66 iterations and 8 s of pauses; in the system that
        # makes a few hundred iterations, longer where it waits for memory.
        num_sessions = 3 * num_concurrent + round(iterations * num_concurrent / 300)
        scenario = Scenario(
            "bench", profile, make_workload("crossover"), rate_per_s=1.0, num_sessions=num_sessions
        )
        trace = closed_loop(scenario, num_concurrent).trace(seed=0, split="test")
        table = scenario.table
        self._engine = Engine(
            profile, trace, House().params(table), table=table, log_rows=log_rows
        )
        self._iterations = iterations
        self._log_rows = log_rows
        # Past the start, when all sessions have just arrived.
        self._advance(self._engine, RULE_POLICY, num_finished=num_concurrent)

    def measure(self, policy: Policy, repetitions: int) -> dict[str, float]:
        """Medians over repetitions of the same stretch of the run; compiling is not counted."""
        until_s = self._until_s(policy)
        durations = []
        counts: dict[str, float] = {}
        for repetition in range(repetitions + 1):
            engine = self._engine.fork()
            before = engine.state.n.copy()
            start = time.perf_counter()
            engine.run(policy, until_s)
            duration = time.perf_counter() - start
            if repetition > 0:
                durations.append(duration)
            after = engine.state.n
            counts = {
                "iterations": float(after[S.ITERATION] - before[S.ITERATION]),
                "decisions": float(after[S.NUM_DECISIONS] - before[S.NUM_DECISIONS]),
                "preemptions": float(after[S.NUM_PREEMPTIONS] - before[S.NUM_PREEMPTIONS]),
                "blocks_out": float(after[S.BLOCKS_OUT] - before[S.BLOCKS_OUT]),
                "blocks_in": float(after[S.BLOCKS_IN] - before[S.BLOCKS_IN]),
            }
        wall_s = statistics.median(durations)
        return counts | {
            "wall_s": wall_s,
            "iterations_per_s": counts["iterations"] / wall_s,
            "decisions_per_s": counts["decisions"] / wall_s,
        }

    def conditions(self, speed: dict[str, float]) -> dict[str, float]:
        """What happened in the stretch that was measured, for each 1000 iterations."""
        kilo = speed["iterations"] / 1000
        names = ("decisions", "preemptions", "blocks_out", "blocks_in")
        return {"iterations": speed["iterations"], "wall_s": speed["wall_s"]} | {
            f"{name}_per_1000_iterations": speed[name] / kilo for name in names
        }

    def _until_s(self, policy: Policy) -> float:
        # The moment at which about so many iterations have passed: the stretch to repeat.
        engine = self._engine.fork()
        start_s, goal = engine.now_s, self._engine.state.n[S.ITERATION] + self._iterations
        while engine.state.n[S.ITERATION] < goal:
            if engine.run(policy, engine.now_s + 1.0):
                break
        return start_s + 0.98 * (engine.now_s - start_s)

    def _advance(self, engine: Engine, policy: Policy, num_finished: int) -> None:
        while engine.state.n[S.NUM_FINISHED] < num_finished:
            if engine.run(policy, engine.now_s + 1.0):
                raise RuntimeError("the run ended before its sessions did")
        if not math.isfinite(engine.now_s):
            raise RuntimeError("the clock ran away")
