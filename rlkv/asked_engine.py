"""The real engine with a sidecar: asked ahead over Redis, and told what came of its pauses."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.real_engine import RealRun, play_policy
from rlkv_engine.ahead import AheadOptions
from rlkv_engine.paged.clock import Clock
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario
from rlkv_service.asking.ahead import AgedAnswers, AskingAhead
from rlkv_service.asking.in_process import InProcessPolicy
from rlkv_service.asking.outcomes import OutcomeReports
from rlkv_service.asking.stepping import step_to_end, stepped_engine
from rlkv_service.client import EngineClient
from rlkv_service.redis_url import RedisURL
from rlkv_service.schema import Point, Reason

if TYPE_CHECKING:
    from rlkv_engine.paged.loading import LoadedModel


@dataclass(frozen=True, slots=True)
class AskedRun:
    """A run on the real engine that a sidecar decided, and who decided what."""

    run: RealRun
    reasons: Counter[Reason]  #: decisions by who decided and why
    at_calls: Counter[Reason]  #: those of them about pauses that begin
    num_outcomes: int  #: reported, of pauses and ends of sessions, and written by the server


def rule_of(policy: AgentPolicy, scenario: Scenario) -> AgentPolicy:
    """The rule under a policy: it orders the victims, and decides where nobody answers."""
    return replace(policy.on(scenario), weights=None, trees=None)


def play_asked(
    loaded: LoadedModel,
    scenario: Scenario,
    policy: AgentPolicy,
    trace: Trace,
    url: RedisURL,
    clock: Clock | None = None,
    on_finished: Callable[[int], None] = lambda _: None,
    options: AheadOptions | None = None,
) -> AskedRun:
    """A trace on a model, to the end of its last session; arguments as for ``play_policy``.

    Args:
        loaded: the model.
        scenario: machine and pauses.
        policy: whose rule the engine has.
        trace: the sessions.
        url: of the Redis or Valkey between engine and sidecar.
        clock: without one iterations take what the profile says.
        on_finished: gets the number of sessions that have finished.
        options: of asking ahead.
    """
    rule = rule_of(policy, scenario)
    # Outcomes count once for each engine, session and turn: every run is an engine of its own.
    engine_id = f"demo-{uuid.uuid4().hex[:12]}"
    with EngineClient(url, engine_id=engine_id, profile_id=scenario.profile.name) as client:
        planner = AskingAhead(client, options=options)
        reports = OutcomeReports(planner, client, engine_id)
        run = play_policy(loaded, scenario, rule, trace, clock, on_finished, planner=reports)
    # Closed, the client has written what it could.
    written = client.counts.outcomes_written
    return AskedRun(run, planner.reasons, planner.reasons_at(Point.CALL), written)


def rehearse(scenario: Scenario, trace: Trace) -> Counter[Reason]:
    """Asks ahead once in a simulation, from the first session to the last.

    All that an engine does that asks, from the first question to decisions by answers that came in
    time, too late or never, is compiled then. Call it before the clock of a run begins: while it
    compiles sessions would arrive, and every answer would be late.

    Returns:
        Who decided in it, and why.
    """
    # One that writes through, so that late answers have something to revise.
    rule = AgentPolicy("rehearsal", House(guard_pauses=0.5, write_through=1.0))
    engine = stepped_engine(scenario, rule, trace)
    planner = AskingAhead(AgedAnswers(InProcessPolicy(rule), 1), options=AheadOptions(high_water=1))
    step_to_end(engine, planner)
    return planner.reasons
