"""A policy on a trace of a scenario, on the real engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlkv_agents.policy import AgentPolicy
from rlkv_engine import state as S
from rlkv_engine.paged.clock import Clock
from rlkv_engine.paged.measuring import IterationSample, timed_iterations
from rlkv_engine.paged.trace_player import TracePlayer
from rlkv_engine.planner import MemoryPlanner
from rlkv_engine.trace import Trace
from rlkv_envs.metrics import RunResult, measure
from rlkv_envs.scenario import Scenario

if TYPE_CHECKING:
    from rlkv_engine.paged.loading import LoadedModel


@dataclass(frozen=True, slots=True)
class RealRun:
    """What one policy did on the real engine."""

    result: RunResult
    blocks_out: int  #: copied to the host
    blocks_in: int  #: and back
    failed_copies: int
    output_digests: dict[int, str]  #: by session: of all tokens it generated
    iterations: list[IterationSample]  #: those with a batch, and how long they took


def play_policy(
    loaded: LoadedModel,
    scenario: Scenario,
    policy: AgentPolicy,
    trace: Trace,
    clock: Clock | None = None,
    on_finished: Callable[[int], None] = lambda _: None,
    planner: MemoryPlanner | None = None,
) -> RealRun:
    """One policy on one trace of a scenario, on a model, to the end of its last session.

    Without a clock iterations take what the profile says; ``on_finished`` gets the number of
    sessions that have finished, whenever it changes. A ``planner`` decides in the policy's place,
    whose rule still orders the victims.
    """
    policy, table = policy.on(scenario), policy.table(scenario)
    player = TracePlayer(
        loaded,
        scenario.profile,
        trace,
        policy.rule.params(table),
        table,
        policy=policy.compiled(),
        planner=planner,
        lease_s=policy.rule.leases(scenario.profile, table),
        clock=clock,
    )
    finished = 0
    iterations: list[IterationSample] = []
    try:
        for sample in timed_iterations(player):
            iterations.append(sample)
            now = int(player.engine.live_state.n[S.NUM_FINISHED])
            if now != finished:
                finished = now
                on_finished(finished)
        player.executor.check_integrity()
    finally:
        player.close()
    counters = player.engine.live_state.n
    return RealRun(
        measure(player.engine.state),
        int(counters[S.BLOCKS_OUT]),
        int(counters[S.BLOCKS_IN]),
        player.executor.num_failed_copies,
        player.output_digests(),
        iterations,
    )
