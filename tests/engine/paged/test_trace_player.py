"""The same trace on the simulator and on the executor: the same plans, and the right tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import RULES, make_rule
from rlkv_engine.config import EngineConfig
from rlkv_engine.engine import Engine
from rlkv_engine.estimates import fit_pause_table
from rlkv_engine.paged.trace_player import TracePlayer
from rlkv_engine.profile import Profile
from rlkv_engine.trace import Trace
from tests.agents.small_scenario import random_network
from tests.engine.paged.summing_model import next_token, summing_model
from tests.envs.small_machine import small_profile, small_traces

NUM_ITERATIONS = 2000
POLICIES = [*(AgentPolicy(name, make_rule(name)) for name in RULES), random_network()]
#: One that copies ahead, one that looks at everybody in every iteration, one that learns.
QUICK = ("house", "min-waste", "learned")


def simulated_log(
    policy: AgentPolicy, profile: Profile, trace: Trace, config: EngineConfig | None = None
) -> NDArray[np.float64]:
    table = fit_pause_table(trace)
    engine = Engine(
        profile,
        trace,
        policy.rule.params(table),
        table=table,
        config=config,
        lease_s=policy.rule.leases(profile, table),
        log_rows=100_000,
    )
    engine.run(policy.compiled())
    return engine.log


def player(
    policy: AgentPolicy, profile: Profile, trace: Trace, config: EngineConfig | None = None
) -> TracePlayer:
    table = fit_pause_table(trace)
    return TracePlayer(
        summing_model(),  # type: ignore[arg-type]
        profile,
        trace,
        policy.rule.params(table),
        table,
        policy=policy.compiled(),
        config=config,
        lease_s=policy.rule.leases(profile, table),
    )


def played_log(played: TracePlayer, num_iterations: int) -> NDArray[np.float64]:
    rows = []
    for iteration in range(num_iterations):
        ended = played.step() is None
        rows.append(played.engine.log.copy())
        if iteration % 25 == 0:
            played.executor.check_integrity()
        if ended:
            break
    played.close()
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return small_traces(1)[0]


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(policy, id=policy.name, marks=() if policy.name in QUICK else pytest.mark.slow)
        for policy in POLICIES
    ],
)
def test_both_executors_carry_out_the_same_plans(policy: AgentPolicy, trace: Trace) -> None:
    profile = small_profile()
    expected = simulated_log(policy, profile, trace)
    played = played_log(player(policy, profile, trace), NUM_ITERATIONS)
    assert played[-1, 1] >= NUM_ITERATIONS - 1
    np.testing.assert_array_equal(played, expected[: len(played)])


@pytest.mark.parametrize(
    "config",
    [EngineConfig(overlap_swap=False), EngineConfig(reuse_discarded=False)],
    ids=["copies at once", "nothing reused"],
)
def test_plans_are_the_same_in_comparison_modes(config: EngineConfig, trace: Trace) -> None:
    policy, profile = POLICIES[-1], small_profile()
    expected = simulated_log(policy, profile, trace, config)
    played = played_log(player(policy, profile, trace, config), 500)
    np.testing.assert_array_equal(played, expected[: len(played)])


def test_plans_are_the_same_where_prefills_waking_and_copies_cost(trace: Trace) -> None:
    policy, plain = AgentPolicy("house", make_rule("house")), small_profile()
    cost_s = plain.iteration_s
    logs = []
    for profile in (
        plain,
        replace(plain, prefill_iteration_s=cost_s),
        replace(plain, wake_s=cost_s),
        replace(plain, copy_iteration_s=cost_s),
        replace(plain, copy_block_s=cost_s),
    ):
        logs.append(simulated_log(policy, profile, trace))
        played = played_log(player(policy, profile, trace), 500)
        np.testing.assert_array_equal(played, logs[-1][: len(played)])
    # Each of them is felt.
    assert len({log[-1, 0] for log in logs}) == len(logs)


def test_every_session_generates_what_its_tokens_say(trace: Trace) -> None:
    short = trace.select(np.arange(8))
    played = player(POLICIES[-1], small_profile(), short)
    outputs = played._outputs
    contexts: dict[int, list[int]] = {}
    while played.step() is not None:
        played.executor.check_integrity()
        for sid, context in played._contexts.items():
            contexts[sid] = context.tokens.tolist()
    played.close()
    assert sorted(outputs) == list(range(8))
    for sid, generated in outputs.items():
        assert len(generated) == short.output_tokens_per_session[sid]
        # The last turn's context holds everything that its tokens depend on.
        last = int(short.output_tokens[short.first_turn[sid + 1] - 1]) - 1
        tokens = contexts[sid]
        for i in range(len(tokens) - last, len(tokens)):
            assert tokens[i] == next_token(tokens[:i])
    assert math.isfinite(played.engine.now_s)
