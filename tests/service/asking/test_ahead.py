"""Asking ahead: late, wrong and missing answers cost decisions, never the books."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import make_rule
from rlkv_engine import ahead, answers
from rlkv_engine import state as S
from rlkv_engine.ahead import AheadOptions
from rlkv_engine.errors import InputError
from rlkv_engine.loop import RULE_POLICY
from rlkv_engine.planner import PolicyPlanner
from rlkv_service.asking.ahead import AgedAnswers, AskingAhead, asked_share
from rlkv_service.asking.in_process import InProcessPolicy
from rlkv_service.asking.stepping import step_to_end
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.schema import LOCAL_REASONS, MAX_ROWS, Point, Reason, Verb
from tests.agents.small_scenario import random_network, small_scenario
from tests.service.asking.engines import Erratic, Refusing, Silent, small_engine

HOUSE = AgentPolicy("house", make_rule("house", {"guard_pauses": 0.5, "write_through": 1.0}))


def same_state(one: object, other: object) -> None:
    for name in ("slot", "real", "n", "latency"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_the_engine_knows_the_reasons_of_the_schema() -> None:
    assert (answers.LATE, answers.NOT_ASKED, answers.STALE) == (
        Reason.LATE, Reason.NOT_ASKED, Reason.STALE,
    )  # fmt: skip
    assert len(Reason) == answers.NUM_REASONS
    assert LOCAL_REASONS[0] == answers.FIRST_LOCAL_REASON
    assert ahead._MAX_ROWS == MAX_ROWS


@pytest.mark.parametrize("asker", [Silent(), Refusing()])
def test_without_answers_the_engines_own_policy_decides(asker: Silent) -> None:
    scenario, policy = small_scenario(num_sessions=15, rate_per_s=3.0), random_network()
    alone, asking = small_engine(scenario, policy), small_engine(scenario, policy)
    step_to_end(alone, PolicyPlanner(policy.compiled()))
    planner = AskingAhead(asker, policy.compiled())
    step_to_end(asking, planner)
    same_state(alone.state, asking.state)
    assert asker.num_asked > 0
    assert asked_share(planner.reasons) == 0.0
    assert planner.reasons.total() == asking.state.n[S.NUM_DECISIONS]
    assert set(planner.reasons) <= {Reason.LATE, Reason.NOT_ASKED}
    assert Reason.NOT_ASKED in planner.reasons
    assert (Reason.LATE in planner.reasons) == (type(asker) is Silent)


def test_fresh_answers_decide_nearly_everything() -> None:
    scenario, policy = small_scenario(num_sessions=15, rate_per_s=3.0), random_network()
    engine = small_engine(scenario, policy)
    planner = AskingAhead(AgedAnswers(InProcessPolicy(policy), 1))
    step_to_end(engine, planner)
    engine.check_integrity()
    assert asked_share(planner.reasons) > 0.8
    assert planner.reasons.total() == engine.state.n[S.NUM_DECISIONS]
    assert planner.policy_version == "learned"
    for point in Point:
        assert asked_share(planner.reasons_at(point)) > 0.5, point


def test_a_policy_that_says_what_the_rule_says_changes_nothing() -> None:
    scenario = small_scenario(num_sessions=15, rate_per_s=3.0)
    alone, asking = small_engine(scenario, HOUSE), small_engine(scenario, HOUSE)
    step_to_end(alone, PolicyPlanner(RULE_POLICY))

    def rule(rows: DecisionRows) -> VerdictRows:
        verdicts = InProcessPolicy(HOUSE)(rows)
        return replace(verdicts, reason=np.zeros(len(rows), np.int8))

    planner = AskingAhead(AgedAnswers(rule, 1))
    step_to_end(asking, planner)
    # The guard is a matter of fractions of a second, nearly all verbs are the same.
    assert asking.now_s == pytest.approx(alone.now_s, rel=0.05)
    assert planner.reasons_at(Point.CALL)[Reason.POLICY] > 0


def test_answers_that_are_too_old_are_not_used() -> None:
    scenario, policy = small_scenario(num_sessions=15, rate_per_s=3.0), random_network()
    alone, asking = small_engine(scenario, policy), small_engine(scenario, policy)
    step_to_end(alone, PolicyPlanner(RULE_POLICY))
    planner = AskingAhead(
        AgedAnswers(InProcessPolicy(policy), 12), RULE_POLICY, AheadOptions(max_age=11)
    )
    step_to_end(asking, planner)
    same_state(alone.state, asking.state)
    assert planner.reasons[Reason.STALE] > 0
    assert asked_share(planner.reasons) == 0.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_host_blocks", [250, 8])
def test_the_books_add_up_whatever_comes_whenever(seed: int, num_host_blocks: int) -> None:
    scenario = small_scenario(num_host_blocks=num_host_blocks, num_sessions=25, rate_per_s=3.0)
    rule = AgentPolicy("any", make_rule(("house", "swap", "discard", "ttl")[seed % 4]))
    engine = small_engine(scenario, rule, seed)
    planner = AskingAhead(
        Erratic(seed),
        RULE_POLICY,
        AheadOptions(
            high_water=(0.05, 1.0)[seed % 2],
            every=1 + seed,
            max_candidates=2 + 3 * seed,
            use_leases=seed % 3 == 0,
        ),
    )
    num_plans = 0

    def check() -> None:
        nonlocal num_plans
        num_plans += 1
        if num_plans % 10 == 0:
            engine.check_integrity()

    step_to_end(engine, planner, check)
    engine.check_integrity()
    assert planner.reasons.total() == engine.state.n[S.NUM_DECISIONS]
    assert min(planner.reasons.values()) >= 0
    # Rules that give everything up at once leave hardly anything to decide.
    assert asked_share(planner.reasons) > 0.0 or rule.rule.name in ("swap", "discard")


def test_a_call_is_revised_when_its_answer_comes() -> None:
    scenario = small_scenario(num_host_blocks=250)

    def discards(rows: DecisionRows) -> VerdictRows:
        verdicts = InProcessPolicy(HOUSE)(rows)
        verdicts.verb[:] = Verb.DISCARD
        verdicts.reason[:] = Reason.POLICY
        return verdicts

    engine = small_engine(scenario, HOUSE)
    planner = AskingAhead(AgedAnswers(discards, 2))
    seen = set()

    def look() -> None:
        n, slots = engine.live_state.n, engine.live_state.slot
        paused = slots[S.PAUSED_LIST, : n[S.NUM_PAUSED]]
        for slot, verb in zip(paused.tolist(), planner.verbs_of(paused).tolist(), strict=True):
            seen.add((verb, bool(slots[S.KEEP, slot] == 0)))

    step_to_end(engine, planner, look)
    engine.check_integrity()
    # The rule wrote it through at first; then all of it was given up.
    assert (Verb.SWAP, False) in seen and (Verb.DISCARD, True) in seen
    assert planner.reasons_at(Point.CALL)[Reason.POLICY] > 0


@pytest.mark.parametrize(
    "wrong",
    [{"high_water": 1.5}, {"every": 0}, {"max_candidates": 0}, {"max_candidates": 400},
     {"max_age": 0}],
)  # fmt: skip
def test_options_that_cannot_be(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(InputError, match=name):
        AheadOptions(**wrong)  # type: ignore[arg-type]


def test_age_counts_iterations() -> None:
    policy = random_network()
    rows = DecisionRows(["a"], np.zeros(1, np.int64), ["t"], np.ones((1, 36)))
    aged = AgedAnswers(InProcessPolicy(policy), 3)
    aged.collect()
    aged.ask(rows, "tag")
    assert [len(aged.collect()) for _ in range(4)] == [0, 0, 1, 0]


def test_more_slots_keep_their_answers() -> None:
    few = answers.make_answers(2)
    few.verb[1, 1], few.pause_start[1, 1], few.counts[0, 3] = 2, 0.5, 7
    many = answers.grow_answers(few, 5)
    assert many.verb.shape == (4, 5) and many.verb[1, 1] == 2
    assert many.pause_start[1, 1] == 0.5 and np.isnan(many.pause_start[1, 4])
    assert many.counts is few.counts


class OfAnotherPause(AgedAnswers):
    """Answers as if the session in each slot had paused at another time."""

    def ask(self, rows: DecisionRows, tag: Any) -> bool:
        return super().ask(rows, tag._replace(pause_start=tag.pause_start - 0.25))


def test_an_answer_about_another_pause_is_none() -> None:
    scenario, policy = small_scenario(num_sessions=15, rate_per_s=3.0), random_network()
    alone, asking = small_engine(scenario, policy), small_engine(scenario, policy)
    step_to_end(alone, PolicyPlanner(RULE_POLICY))
    planner = AskingAhead(OfAnotherPause(InProcessPolicy(policy), 1))
    step_to_end(asking, planner)
    same_state(alone.state, asking.state)
    assert asked_share(planner.reasons) == 0.0
    assert set(planner.reasons) == {Reason.LATE, Reason.NOT_ASKED, Reason.STALE}
