"""Changing the future changes no observation: nothing that a policy sees is ahead of its time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rlkv_engine import rule as R
from rlkv_engine.estimates import BY_TRUTH
from rlkv_engine.trace import Trace
from rlkv_envs.engine_stack import EngineStack
from rlkv_envs.env_settings import EnvSettings
from rlkv_envs.workloads.arrivals import ClosedLoop, Poisson
from tests.envs.altered_future import altered_future
from tests.envs.small_machine import small_settings

#: Decisions at which the future of one trace is changed.
NUM_MOMENTS = 12


def rollout(
    settings: EnvSettings, trace: Trace, actions: NDArray[np.int64], num_steps: int
) -> tuple[list[NDArray[np.float32]], EngineStack]:
    """Observations and masks of the first decisions, up to decision ``num_steps`` from 0."""
    stack = EngineStack(settings, [trace], 1)
    stack.start(0, 0)
    assert not stack.run()
    seen = []
    for k in range(num_steps + 1):
        seen.append(np.append(stack.steps.observation[0], stack.steps.mask[0].astype(np.float32)))
        if k == num_steps or stack.steps.terminated[0]:
            break
        stack.step(actions[k : k + 1])
    return seen, stack


def count_changes(settings: EnvSettings, seed: int) -> tuple[int, int]:
    """How many altered futures showed before decision k, and how many showed after it."""
    rng = np.random.default_rng(seed)
    trace = settings.trace(seed)
    actions = rng.integers(3, size=4000)
    whole, _ = rollout(settings, trace, actions, len(actions) - 1)
    early = late = 0
    for k in rng.integers(1, len(whole) - 40, size=NUM_MOMENTS).tolist():
        _, stack = rollout(settings, trace, actions, k)
        other = altered_future(trace, stack.state, 0, rng)
        again, _ = rollout(settings, other, actions, k + 30)
        early += not np.array_equal(np.array(whole[: k + 1]), np.array(again[: k + 1]))
        late += not np.array_equal(np.array(whole[: k + 31]), np.array(again))
    return early, late


@pytest.mark.parametrize("arrivals", [Poisson(1.0), Poisson(2.5), ClosedLoop(10)])
@pytest.mark.parametrize("seed", range(4))
def test_changing_the_future_changes_no_observation(
    seed: int, arrivals: Poisson | ClosedLoop
) -> None:
    early, late = count_changes(small_settings(arrivals=arrivals), seed)
    assert early == 0
    assert late == NUM_MOMENTS  # or else the changes were none


def test_the_test_sees_a_rule_that_knows_the_future() -> None:
    settings = small_settings()
    rule = settings.rule.copy()
    rule[R.ESTIMATE] = BY_TRUTH
    early, _ = count_changes(replace(settings, rule=rule), 0)
    assert early > 0


def test_the_test_sees_a_change_of_the_past() -> None:
    settings = small_settings()
    trace = settings.trace(0)
    actions = np.random.default_rng(0).integers(3, size=100)
    seen, _ = rollout(settings, trace, actions, 50)
    first = trace.input_tokens.copy()
    first[0] += 40
    other, _ = rollout(settings, replace(trace, input_tokens=first), actions, 50)
    assert not np.array_equal(np.array(seen), np.array(other))
