"""Demonstrations follow the student and ask the teacher; a clone answers as its teachers do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlkv_agents.cloning import CloneSettings, clone
from rlkv_agents.demonstrations import Demonstrations, Teacher, demonstrate
from rlkv_agents.evaluate import run_policy
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.shipped import UNIVERSAL
from rlkv_engine.observe import NUM_FEATURES
from rlkv_engine.state import CALL, DISCARD, NEW, PRESERVE, SWAP
from rlkv_engine.tree import NUM_POINTS
from tests.agents.small_scenario import small_scenario

SCENARIO = small_scenario()
STUDENT = AgentPolicy("student", House(write_through=1.0))
#: Never writes through, never swaps, never guards: easy to tell from the student.
PLAIN = AgentPolicy(
    "plain", House(guard_pauses=0.0, swap_ratio=0.0, write_through=0.0, new_swaps=0.0)
)


def shown(teacher: AgentPolicy, *, obey_teacher: bool, num: int = 4000) -> Demonstrations:
    return demonstrate(
        Teacher(SCENARIO, teacher),
        STUDENT,
        [SCENARIO.trace(seed, "train") for seed in range(2)],
        obey_teacher=obey_teacher,
        num_per_trace=num,
        rng=np.random.default_rng(0),
    )


@pytest.mark.parametrize("obey_teacher", [True, False])
def test_the_verbs_are_the_teachers(obey_teacher: bool) -> None:
    demos = shown(PLAIN, obey_teacher=obey_teacher)
    assert len(demos.verb) > 50
    assert (demos.verb[demos.point == CALL] == PRESERVE).all()
    assert (demos.verb[demos.point != CALL] == DISCARD).all()
    # What the student sees is its own rule's verb, not the teacher's.
    own = demos.observation[:, -3:].argmax(axis=1)
    assert (own[demos.point == CALL] == SWAP).any()


def test_what_is_written_down_is_legal() -> None:
    demos = shown(AgentPolicy("house", House(swap_ratio=1e9)), obey_teacher=False)
    assert (demos.verb == SWAP).any() and not demos.mask[:, SWAP].all()
    assert demos.mask[np.arange(len(demos.verb)), demos.verb].all()


def test_the_student_goes_its_own_way() -> None:
    # The same student with another teacher meets the same decisions.
    ours = shown(PLAIN, obey_teacher=False)
    theirs = shown(AgentPolicy("house", House(guard_pauses=4.0)), obey_teacher=False)
    np.testing.assert_array_equal(ours.observation, theirs.observation)
    assert (ours.verb != theirs.verb).any()


def test_no_point_crowds_out_the_others() -> None:
    demos = shown(PLAIN, obey_teacher=False, num=40)
    counts = np.bincount(demos.point, minlength=NUM_POINTS)
    assert counts.max() <= 2 * 40 / NUM_POINTS and demos.observation.shape[1] == NUM_FEATURES
    assert counts[NEW] > 0


def test_a_clone_answers_as_each_teacher_does() -> None:
    slow = replace(small_scenario(num_host_blocks=1), name="no host")
    teachers = [
        Teacher(SCENARIO, AgentPolicy("guarded", House(guard_pauses=2.0, swap_ratio=1e9))),
        Teacher(slow, PLAIN),
    ]
    settings = CloneSettings(num_passes=2, traces_per_pass=1, num_per_trace=600, num_epochs=150)
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    student = clone(teachers, STUDENT, settings, 0, count)
    assert student.name == UNIVERSAL and student.trained_range is not None
    assert steps == settings.num_passes * len(teachers) + settings.num_steps
    for teacher in teachers:
        trace = teacher.scenario.trace(0, "test")
        demos = demonstrate(
            teacher, student, [trace], obey_teacher=False, num_per_trace=2000,
            rng=np.random.default_rng(1), ask_call=False,
        )  # fmt: skip
        answered = demonstrate(
            Teacher(teacher.scenario, student), student, [trace], obey_teacher=False,
            num_per_trace=2000, rng=np.random.default_rng(1), ask_call=False,
        )  # fmt: skip
        np.testing.assert_array_equal(demos.observation, answered.observation)
        assert (demos.verb == answered.verb).mean() > 0.9
        assert (demos.point != CALL).all()
        run_policy(teacher.scenario, student, trace)


def test_one_seed_one_clone() -> None:
    settings = CloneSettings(num_passes=1, traces_per_pass=1, num_per_trace=100, num_epochs=2)
    first, second = (clone([Teacher(SCENARIO, PLAIN)], STUDENT, settings, 3) for _ in range(2))
    assert first.weights is not None and second.weights is not None
    for ours, theirs in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
