"""Two learners that take turns until one of them is seen to be behind."""

from __future__ import annotations

import numpy as np
import pytest

from rlkv_agents.both_forms import BothForms
from rlkv_agents.forked_learner import ForkedLearner
from rlkv_agents.forked_ppo import CLIP, KL
from rlkv_agents.house_rule import House
from tests.agents.small_scenario import small_scenario

SCENARIO = small_scenario()
#: Rounds until turns begin again.
TURNS = [CLIP, CLIP, CLIP, CLIP, KL, KL]


@pytest.fixture(autouse=True)
def little_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of a moment, and a verdict after all have had their turns twice."""
    monkeypatch.setattr(ForkedLearner, "traces_per_round", 1)
    monkeypatch.setattr(ForkedLearner, "forks_per_trace", 10)
    monkeypatch.setattr(BothForms, "rounds_of_both", 12)


def learn(learner: BothForms, rounds: range, scores: dict[str, float]) -> list[str]:
    """Forms at work in each round; every second is judged, by what its form gets."""
    forms = []
    for number in rounds:
        learner.run_round(number)
        forms.append(learner.form)
        if number % 2:
            learner.judge(scores[learner.form])
    return forms


@pytest.mark.parametrize(("better", "worse"), [(CLIP, KL), (KL, CLIP)])
def test_the_one_behind_has_no_more_turns(better: str, worse: str) -> None:
    learner = BothForms(SCENARIO, House(), seed=0)
    forms = learn(learner, range(12), {better: -0.1, worse: 0.2})
    assert forms == 2 * TURNS
    # That it does badly afterwards changes nothing: its best snapshot is still ahead.
    assert learn(learner, range(12, 20), {better: 0.9}) == 8 * [better]


def test_it_is_the_best_snapshot_that_counts() -> None:
    learner = BothForms(SCENARIO, House(), seed=0)
    learn(learner, range(6), {CLIP: 0.5, KL: -0.2})
    learn(learner, range(6, 12), {CLIP: -0.1, KL: 0.0})
    assert learn(learner, range(12, 13), {}) == [KL]


def test_where_nothing_has_passed_the_start_both_go_on() -> None:
    learner = BothForms(SCENARIO, House(), seed=0)
    forms = learn(learner, range(18), {CLIP: 0.3, KL: 0.0})
    assert forms == 3 * TURNS


@pytest.mark.parametrize(
    "stop_after", [12, *(pytest.param(rounds, marks=pytest.mark.slow) for rounds in (10, 14))]
)
def test_whoever_resumes_knows_who_is_behind(stop_after: int) -> None:
    scores = {CLIP: 0.1, KL: -0.3}
    whole = BothForms(SCENARIO, House(), seed=3)
    learn(whole, range(16), scores)
    first = BothForms(SCENARIO, House(), seed=3)
    learn(first, range(stop_after), scores)
    second = BothForms(SCENARIO, House(), seed=3)
    second.restore(first.tensors())
    assert learn(second, range(stop_after, 16), scores)[-1] == KL
    for name, array in whole.tensors().items():
        np.testing.assert_array_equal(array, second.tensors()[name], err_msg=name)
