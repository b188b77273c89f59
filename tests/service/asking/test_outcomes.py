"""What is reported of pauses adds up to what the engine counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import make_rule
from rlkv_engine import state as S
from rlkv_engine.latency import resume_latency_s
from rlkv_engine.paged.clock import SimulatedClock
from rlkv_engine.paged.engine import PagedEngine, Token
from rlkv_engine.paged.trace_player import TracePlayer
from rlkv_engine.profile import Profile
from rlkv_envs.scenario import Scenario
from rlkv_service.asking.ahead import AgedAnswers, AskingAhead
from rlkv_service.asking.in_place import InPlaceAsking
from rlkv_service.asking.in_process import InProcessPolicy
from rlkv_service.asking.outcomes import OutcomeReports
from rlkv_service.asking.stepping import step_to_end
from rlkv_service.schema import Outcome, SessionEnd, Verb
from tests.agents.small_scenario import random_network, small_scenario
from tests.engine.paged.small_engine import pause_table, tiny_profile
from tests.engine.paged.summing_model import summing_model
from tests.service.asking.engines import small_engine

EPOCH_S = 1000.0


class Kept:
    """What was reported."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.ends: list[SessionEnd] = []

    def report(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes += outcomes

    def end(self, sessions: Sequence[SessionEnd]) -> None:
        self.ends += sessions


def roomy(scenario: Scenario, times: int) -> Scenario:
    profile = scenario.profile
    more = replace(profile, num_device_blocks=times * profile.num_device_blocks)
    return replace(scenario, profile=more)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("times", [1, 2])
def test_outcomes_add_up_to_the_engines_counters(in_place: bool, times: int) -> None:
    scenario, policy = roomy(small_scenario(), times), random_network()
    engine, kept = small_engine(scenario, policy), Kept()
    answerer = InProcessPolicy(policy)
    planner = InPlaceAsking(answerer) if in_place else AskingAhead(AgedAnswers(answerer, 1))
    reports = OutcomeReports(planner, kept, "engine-1", EPOCH_S)
    step_to_end(engine, reports)
    reports.follow(engine)
    trace, st, outcomes = engine.trace, engine.state, kept.outcomes
    # One for each pause, with what the trace says of it.
    turns: dict[tuple[str, int], int] = {}
    for sid in range(trace.num_sessions):
        first, end = trace.first_turn[sid : sid + 2]
        turns |= {(trace.session_ids[sid], t - first): t for t in range(first, end - 1)}
    assert len(outcomes) == len(turns)
    for each in outcomes:
        turn = turns.pop((each.session, each.turn))
        assert each.pause_s == pytest.approx(trace.pause_s[turn], abs=1e-6)
        assert each.tool == trace.tools[trace.tool[turn]]
        assert each.input_tokens == trace.input_tokens[turn]
        assert each.output_tokens == trace.output_tokens[turn]
        assert each.context_tokens == each.input_tokens + each.output_tokens - 1
        assert (
            each.new_tokens == trace.input_tokens[turn + 1] - trace.shared_prefix_tokens[turn + 1]
        )
        assert each.verb in tuple(Verb)
        assert each.policy_version == "learned"
        assert EPOCH_S <= each.started_s <= each.ended_s <= EPOCH_S + engine.now_s
    assert not turns
    # Delays are the engine's resume latencies.
    seen = sum(latency.count for latency in resume_latency_s(st))
    total_s = sum(
        latency.count * latency.mean_s for latency in resume_latency_s(st) if latency.count
    )
    assert seen == len(outcomes)
    assert sum(each.delay_s for each in outcomes) == pytest.approx(total_s)
    # Tokens: what was kept is on the device, comes from the host, or is computed again.
    recomputed = sum(each.recomputed_tokens for each in outcomes)
    if st.n[S.NUM_PREEMPTIONS] == 0:
        assert recomputed == st.n[S.RECOMPUTED_TOKENS]
        for each in outcomes:
            assert each.reused_device_tokens + each.reused_host_tokens + each.recomputed_tokens <= (
                each.context_tokens
            )
    else:
        assert 0 < recomputed <= st.n[S.RECOMPUTED_TOKENS]
    loaded = sum(each.reused_host_tokens for each in outcomes)
    assert 0 < loaded <= st.n[S.BLOCKS_IN] * scenario.profile.block_size
    assert times == 1 or st.n[S.NUM_PREEMPTIONS] == 0
    # Every session ends once.
    assert sorted(end.session for end in kept.ends) == sorted(trace.session_ids)
    assert (
        sum(end.output_tokens for end in kept.ends) + sum(each.output_tokens for each in outcomes)
        == (st.n[S.NUM_GENERATED])
    )


def test_both_executors_report_the_same() -> None:
    scenario, policy = small_scenario(num_sessions=8), random_network()
    trace, table = scenario.trace(0, "test"), policy.table(scenario)
    kept = [Kept(), Kept()]
    simulated = small_engine(scenario, policy)
    reports = OutcomeReports(
        AskingAhead(AgedAnswers(InProcessPolicy(policy), 2)), kept[0], "engine", EPOCH_S
    )
    step_to_end(simulated, reports)
    reports.follow(simulated)
    reports = OutcomeReports(
        AskingAhead(AgedAnswers(InProcessPolicy(policy), 2)), kept[1], "engine", EPOCH_S
    )
    player = TracePlayer(
        summing_model(),  # type: ignore[arg-type]
        scenario.profile,
        trace,
        policy.rule.params(table),
        table,
        planner=reports,
    )
    while player.step() is not None:
        pass
    player.close()
    reports.follow(player.engine)
    assert kept[0].outcomes == kept[1].outcomes
    assert kept[0].ends == kept[1].ends
    assert len(kept[0].ends) == 8


def live_engine(kept: Kept, profile: Profile) -> tuple[PagedEngine, OutcomeReports]:
    table, rule = pause_table(), make_rule("house")
    planner = AskingAhead(AgedAnswers(InProcessPolicy(AgentPolicy("house", rule)), 1))
    reports = OutcomeReports(planner, kept, "live", EPOCH_S)
    engine = PagedEngine(
        summing_model(),  # type: ignore[arg-type]
        profile,
        rule.params(table),
        table,
        planner=reports,
        clock=SimulatedClock(),
    )
    return engine, reports


def test_live_sessions_are_reported_by_their_numbers() -> None:
    kept = Kept()
    engine, _ = live_engine(kept, tiny_profile(num_device_blocks=24))
    random = np.random.default_rng(0)
    expected: set[tuple[str, int, str]] = set()
    ended: set[str] = set()
    # More sessions than there are columns at first, so that columns are used again.
    for number in range(270):
        prompt = random.integers(1, 50, size=int(random.integers(1, 20))).tolist()
        session = engine.add_session(prompt, max_new_tokens=3)
        assert session == number
        tokens: list[Token] = []
        while not tokens or tokens[-1].end is None:
            tokens += engine.step()
        if number % 3 == 0:
            tool = ("search", "shell", "unheard-of")[number % 9 // 3]
            engine.pause(session, tool)
            for _ in range(number % 4):
                engine.step()
            engine.resume(session, [7, 8], max_new_tokens=2)
            tokens = []
            while not tokens or tokens[-1].end is None:
                tokens += engine.step()
            expected.add((str(session), 0, tool))
        engine.cancel(session)
        ended.add(str(session))
    engine.step()
    assert {(each.session, each.turn, each.tool) for each in kept.outcomes} == expected
    assert len(kept.outcomes) == len(expected)
    assert {end.session for end in kept.ends} == ended
    assert {(end.turn, end.output_tokens) for end in kept.ends} == {(0, 3), (1, 2)}
    for each in kept.outcomes:
        kept_tokens = each.reused_device_tokens + each.reused_host_tokens + each.recomputed_tokens
        assert 0 <= each.context_tokens - kept_tokens <= 1
        assert each.new_tokens == 2
    engine.check_integrity()
    engine.close()
