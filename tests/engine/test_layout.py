"""How a state is built over traces: one is worked on where it is, several are joined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlkv_engine import rule as R
from rlkv_engine import state as S
from rlkv_engine.config import EngineConfig
from rlkv_engine.engine import Engine
from rlkv_engine.estimates import PauseTable, fit_pause_table
from rlkv_engine.layout import build_state, reset_engine
from rlkv_engine.loop import RULE_POLICY, run_policy
from rlkv_engine.trace import Trace
from tests.engine.hand_machine import LAST, MACHINE
from tests.engine.reference_session import Turn
from tests.engine.reference_worlds import make_trace

PAUSES_S = {"long": 9.0, "short": 0.5, "rare": 3.0}
#: Leases by row of the table, the last one of tools it does not know; they matter to the outcome.
LEASES_S = np.array([8.0, 0.1, 1.0])


def trace_of(tools: tuple[str, ...], num_sessions: int) -> Trace:
    """Sessions of two turns that take turns with the tools, enough of them to fill the machine."""
    sessions = [
        [Turn(12, 0, 2, PAUSES_S[tools[sid % len(tools)]]), Turn(20, 13, 2, LAST)]
        for sid in range(num_sessions)
    ]
    trace = make_trace(sessions, [0.7 * sid for sid in range(num_sessions)])
    tool = np.array([[sid % len(tools), -1] for sid in range(num_sessions)]).ravel()
    return replace(trace, tools=tools, tool=tool)


def table() -> PauseTable:
    return fit_pause_table(trace_of(("short", "long"), 40))


def rule() -> np.ndarray:
    vector = np.zeros(R.RULE_SIZE)
    vector[R.CALL_VERB], vector[R.NEW_VERB] = R.CALL_LEASE, S.DISCARD
    vector[R.RESUME_VERB] = vector[R.GROW_VERB] = S.SWAP
    return vector


def engine_of(trace: Trace, *, keep_outcome: bool = True) -> Engine:
    profile = replace(MACHINE, num_device_blocks=20, num_host_blocks=20)
    return Engine(
        profile, trace, rule(), table=table(), lease_s=LEASES_S, keep_outcome=keep_outcome
    )


def test_the_columns_of_a_trace_are_rows_of_what_engines_read() -> None:
    trace = trace_of(("long", "short"), 10)
    shorter = replace(trace, output_tokens=np.ones(20, np.int64))
    for one, tokens in ((trace, 4), (shorter, 2)):
        np.testing.assert_array_equal(one.sessions, [one.arrival_s, np.full(10, 1 / tokens)])
        columns = [one.input_tokens, one.shared_prefix_tokens, one.output_tokens, one.tool]
        np.testing.assert_array_equal(one.turns, columns)
        assert all(np.shares_memory(one.turns, column) for column in columns)
    assert not np.shares_memory(trace.turns, shorter.turns)
    assert trace.num_bytes == 8 * (11 + 2 * 10 + 4 * 20 + 20)


def test_an_engine_works_on_the_arrays_of_its_trace_and_leaves_them_as_they_are() -> None:
    trace = trace_of(("long", "short", "rare"), 60)
    engine = engine_of(trace)
    names = ("first_turn", "sessions", "turns", "pause_s")
    before = {name: getattr(trace, name).copy() for name in names}
    assert engine.run(RULE_POLICY)
    for name in names:
        assert np.shares_memory(getattr(engine.state, name), getattr(trace, name)), name
        np.testing.assert_array_equal(getattr(trace, name), before[name], err_msg=name)


def own_arrays(engine: Engine) -> dict[str, np.ndarray]:
    """The arrays of an engine that are not its trace's."""
    return {name: a for name, a in engine.state._asdict().items() if name not in S.SHARED}


@pytest.mark.parametrize("num_concurrent", [0, 8])
def test_a_longer_trace_takes_no_more_memory_of_its_own(num_concurrent: int) -> None:
    def num_bytes(num_sessions: int, *, keep_outcome: bool) -> int:
        trace = trace_of(("long", "short"), num_sessions)
        # Slower than the machine is, so that no queue grows.
        arrival_s = np.zeros if num_concurrent else lambda n: 20.0 * np.arange(n)
        trace = trace.with_arrivals(arrival_s(num_sessions), num_concurrent)
        engine = engine_of(trace, keep_outcome=keep_outcome)
        assert engine.run(RULE_POLICY)
        return sum(array.nbytes for array in own_arrays(engine).values())

    few, many = (num_bytes(count, keep_outcome=False) for count in (20, 2000))
    assert few == many
    assert num_bytes(2000, keep_outcome=True) == many + 16 * 2000


@pytest.mark.parametrize("num_concurrent", [0, 8])
def test_keeping_the_outcome_changes_nothing_else(num_concurrent: int) -> None:
    trace = trace_of(("long", "short", "rare"), 60)
    if num_concurrent:
        trace = trace.with_arrivals(np.zeros(60), num_concurrent)
    kept, unkept = (engine_of(trace, keep_outcome=keep) for keep in (True, False))
    assert kept.run(RULE_POLICY) and unkept.run(RULE_POLICY)
    for name, array in own_arrays(unkept).items():
        if name != "outcome":
            np.testing.assert_array_equal(array, getattr(kept.state, name), err_msg=name)


def test_a_bank_of_traces_with_other_tools_runs_each_as_if_alone() -> None:
    traces = [
        trace_of(("long", "short", "rare"), 60),
        trace_of(("rare", "short"), 50),
        trace_of(("short", "long"), 70),
    ]
    profile = replace(MACHINE, num_device_blocks=20, num_host_blocks=20)
    stack = build_state(
        profile, traces, table(), rule(), EngineConfig(), num_engines=2, num_slots=128,
        lease_s=LEASES_S, keep_outcome=True,
    )  # fmt: skip
    first_session, ends = 0, []
    for trace in traces:
        reset_engine(stack, 1, first_session, trace)
        st = S.one_engine(stack, 1)
        run_policy(stack, S.ONE, RULE_POLICY, np.inf)
        alone = engine_of(trace)
        assert alone.run(RULE_POLICY)
        np.testing.assert_array_equal(st.outcome[:, : trace.num_sessions], alone.state.outcome)
        np.testing.assert_array_equal(st.latency, alone.state.latency)
        first_session += trace.num_sessions
        ends.append(float(alone.state.f[S.NOW]))
    assert len(set(ends)) == 3


def test_tools_keep_their_leases_whatever_their_number_in_a_trace() -> None:
    # The same sessions, with the tools of the trace in another order, and one more of them.
    one = trace_of(("short", "long"), 60)
    other = replace(one, tools=("unused", "long", "short"), tool=np.array([2, 1, -1])[one.tool])
    ends = [engine_of(trace) for trace in (one, other)]
    for engine in ends:
        assert engine.run(RULE_POLICY)
    np.testing.assert_array_equal(ends[0].state.outcome, ends[1].state.outcome)
    swapped = replace(one, tools=("long", "short"))
    wrong = engine_of(swapped)
    wrong.run(RULE_POLICY)
    assert (wrong.state.outcome != ends[0].state.outcome).any()
