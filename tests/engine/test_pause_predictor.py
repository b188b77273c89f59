"""Classes of pauses: known as they begin, the same for a whole trace and for a live session."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkv_engine.pause_features import NUM_PAUSE_FEATURES, NUM_TOOL_STATISTICS, PAUSE_FEATURES
from rlkv_engine.pause_predictor import PausePredictor, SessionPauses
from rlkv_engine.trace import Trace
from tests.envs.paused_sessions import TOOLS, paused_sessions

NAMES = [name for name, _ in PAUSE_FEATURES]
seeds = st.integers(0, 2**32 - 1)


def random_predictor(seed: int, num_splits: int = 12) -> PausePredictor:
    """A tree of random splits at values that features take."""
    rng = np.random.default_rng(seed)
    trace = paused_sessions(40, seed=3)
    statistics = rng.normal(1.0, 1.0, (len(TOOLS) + 1, NUM_TOOL_STATISTICS))
    reader = PausePredictor(TOOLS, statistics, 0.05, np.array([[-1.0, 0.0, 0.0, -1.0]]))
    features = reader.features(trace)[np.isfinite(trace.pause_s)]
    nodes = [[-1.0, 0.0, 0.0, -1.0]]
    for _ in range(num_splits):
        leaf = int(rng.choice([i for i, node in enumerate(nodes) if node[0] < 0]))
        feature = int(rng.integers(NUM_PAUSE_FEATURES))
        threshold = float(rng.choice(features[:, feature]))
        nodes[leaf] = [feature, threshold, len(nodes), len(nodes) + 1]
        nodes += [[-1.0, 0.0, 0.0, -1.0] for _ in range(2)]
    leaves = [node for node in nodes if node[0] < 0]
    for k, node in enumerate(leaves):
        node[2] = float(k)
    return replace(reader, nodes=np.array(nodes))


def live_classes(predictor: PausePredictor, trace: Trace, session: int) -> list[int]:
    """What a session that is followed as it goes on is told, for each of its pauses."""
    live = SessionPauses(predictor)
    told = []
    for turn in range(trace.first_turn[session], trace.first_turn[session + 1] - 1):
        told.append(
            live.begin(
                trace.tools[trace.tool[turn]],
                input_tokens=int(trace.input_tokens[turn]),
                shared_prefix_tokens=int(trace.shared_prefix_tokens[turn]),
                output_tokens=int(trace.output_tokens[turn]),
            )
        )
        live.end(float(trace.pause_s[turn]))
    return told


@given(seeds, seeds)
def test_a_live_session_is_told_what_the_trace_says(tree: int, sessions: int) -> None:
    predictor = random_predictor(tree)
    trace = replace(paused_sessions(6, seed=sessions), tools=("compile", "unheard-of", "search"))
    rows = predictor.turn_rows(trace)
    for session in range(trace.num_sessions):
        first, end = trace.first_turn[session : session + 2]
        assert live_classes(predictor, trace, session) == rows[first : end - 1].tolist()
        assert rows[end - 1] == -1


@given(seeds, seeds)
def test_classes_know_nothing_of_the_future(tree: int, seed: int) -> None:
    """All that comes with the end of a pause is drawn anew: its class stays."""
    predictor = random_predictor(tree)
    rng = np.random.default_rng(seed)
    trace = paused_sessions(12, seed=1)
    session = int(rng.integers(trace.num_sessions))
    first, end = trace.first_turn[session : session + 2]
    turn = int(rng.integers(first, end - 1))
    later = np.arange(trace.num_turns) > turn
    pause_s, tool = trace.pause_s.copy(), trace.tool.copy()
    pause_s[turn : end - 1] = rng.exponential(100.0, end - 1 - turn)
    tool[turn + 1 : end - 1] = rng.integers(len(TOOLS), size=end - 2 - turn)
    shared = np.where(later, rng.integers(0, 100, trace.num_turns), trace.shared_prefix_tokens)
    tokens: dict[str, Any] = {
        name: np.where(later, rng.integers(100, 10**5, trace.num_turns), getattr(trace, name))
        for name in ("input_tokens", "output_tokens")
    }
    other = replace(trace, pause_s=pause_s, tool=tool, shared_prefix_tokens=shared, **tokens)
    before, after = predictor.features(trace), predictor.features(other)
    np.testing.assert_array_equal(after[: turn + 1], before[: turn + 1])
    np.testing.assert_array_equal(
        predictor.turn_rows(other)[: turn + 1], predictor.turn_rows(trace)[: turn + 1]
    )
    if turn + 1 < end - 1:
        assert not np.array_equal(after[turn + 1], before[turn + 1])  # or else nothing was changed


def test_features_by_hand() -> None:
    pause_s = np.array([2.0, 8.0, 4.0, 1.0, np.nan])
    trace = replace(
        paused_sessions(1, seed=3),
        first_turn=np.array([0, 5]),
        input_tokens=np.array([100, 200, 300, 400, 500]),
        shared_prefix_tokens=np.array([0, 90, 180, 370, 480]),
        output_tokens=np.array([7, 8, 9, 10, 11]),
        pause_s=pause_s,
        tool=np.array([0, 1, 0, 0, -1]),
    )
    predictor = random_predictor(0)
    mean = predictor.tool_statistics[:, 0]
    features = predictor.features(trace)
    fourth = dict(zip(NAMES, features[3], strict=True))
    log_s = np.log(pause_s)
    expected = {
        "tool_mean": mean[0],
        "turn": 3.0,
        "last": log_s[2],
        "before_last": log_s[1],
        "moving_average": (log_s[2] + 0.7 * log_s[1] + 0.49 * log_s[0]) / 2.19,
        "tool_moving_average": (log_s[2] + 0.7 * log_s[0]) / 1.7,
        "tool_pauses": 2.0,
        "session_effect": (log_s[:3].sum() - 2 * mean[0] - mean[1]) / 6.0,
        "last_surprise": log_s[2] - mean[0],
        "longest": log_s[1],
        "last_tool_mean": mean[0],
        "output_tokens": np.log(10),
        "context_tokens": np.log(410),
        "new_tokens": np.log(31),
    }
    for name, value in expected.items():
        assert fourth[name] == pytest.approx(value, abs=1e-12), name
    first = dict(zip(NAMES, features[0], strict=True))
    for name in ("last", "before_last", "moving_average", "tool_moving_average", "longest"):
        assert first[name] == mean[0], name
    assert first["tool_pauses"] == first["session_effect"] == first["last_surprise"] == 0.0
    assert dict(zip(NAMES, features[1], strict=True))["before_last"] == mean[1]


def test_a_tool_it_does_not_know_is_like_all_tools() -> None:
    predictor = random_predictor(0)
    assert [predictor.tool_row(tool) for tool in ("compile", "unheard-of")] == [1, len(TOOLS)]


def test_a_live_session_takes_its_turns_in_order() -> None:
    live = SessionPauses(random_predictor(0))
    with pytest.raises(ValueError, match="no pause has begun"):
        live.end(1.0)
    with pytest.raises(ValueError, match="no turn has"):
        live.begin("search", input_tokens=3, shared_prefix_tokens=4, output_tokens=1)
    live.begin("search", input_tokens=4, shared_prefix_tokens=3, output_tokens=1)
    with pytest.raises(ValueError, match="has not ended"):
        live.begin("search", input_tokens=4, shared_prefix_tokens=3, output_tokens=1)
