from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.traces import read_trace, write_trace
from rlkv_envs.workloads import (
    SPLITS,
    WORKLOADS,
    Split,
    TraceWorkload,
    Workload,
    make_trace,
    make_workload,
)
from rlkv_envs.workloads.arrivals import ClosedLoop, GammaRenewal, Poisson
from rlkv_envs.workloads.replay import SPLIT_RATIOS, split_of_root
from rlkv_envs.workloads.session_arrays import fit_contexts, scale_contexts

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the recorded traces are not here")

TOKENS = ("input_tokens", "shared_prefix_tokens", "output_tokens", "tool", "pause_s")


def draw(
    workload: Workload, num_sessions: int = 300, split: Split = "train", seed: int = 0
) -> Trace:
    return make_trace(workload, Poisson(1.0), seed=seed, split=split, num_sessions=num_sessions)


def is_later(trace: Trace) -> NDArray[np.bool_]:
    """True for every turn but the first of its session."""
    later = np.ones(trace.num_turns, bool)
    later[trace.first_turn[:-1]] = False
    return later


def check_contexts(trace: Trace) -> None:
    """Nothing is shared that the session does not have."""
    context = np.roll(trace.input_tokens + trace.output_tokens, 1)
    later = is_later(trace)
    assert (trace.shared_prefix_tokens[~later] == 0).all()
    assert (trace.shared_prefix_tokens[later] <= context[later]).all()


# --- what every generator keeps -----------------------------------------------------------------


@pytest.mark.parametrize("name", WORKLOADS)
def test_traces_are_valid_and_reproducible(name: str, tmp_path: Path) -> None:
    workload = make_workload(name)
    assert workload.name == name and workload.description
    trace = draw(workload)
    trace.validate()
    check_contexts(trace)
    assert trace.tools == workload.tools and trace.num_sessions == 300
    assert len(set(trace.session_ids)) == 300
    write_trace(trace, tmp_path / "trace.jsonl")
    again = read_trace(tmp_path / "trace.jsonl")
    for key in TOKENS:
        np.testing.assert_array_equal(getattr(draw(workload), key), getattr(trace, key))
        np.testing.assert_array_equal(getattr(again, key), getattr(trace, key))


@pytest.mark.parametrize("name", WORKLOADS)
def test_bodies_do_not_depend_on_arrivals(name: str) -> None:
    workload = make_workload(name)
    traces = [
        make_trace(workload, arrivals, seed=3, split="test", num_sessions=50)
        for arrivals in (Poisson(0.1), Poisson(5.0), GammaRenewal(1.0, 4.0), ClosedLoop(4))
    ]
    for trace in traces[1:]:
        for key in TOKENS:
            np.testing.assert_array_equal(getattr(trace, key), getattr(traces[0], key))
    np.testing.assert_allclose(traces[0].arrival_s, traces[1].arrival_s * 50)
    assert traces[3].num_concurrent == 4


@pytest.mark.parametrize("name", WORKLOADS)
def test_splits_and_seeds_share_nothing(name: str) -> None:
    workload = make_workload(name)
    drawn = {split: draw(workload, 100, split) for split in SPLITS}
    roots = [set(trace.roots) for trace in drawn.values()]
    assert not (roots[0] & roots[1] or roots[0] & roots[2] or roots[1] & roots[2])
    pauses = [trace.pause_s[:50] for trace in drawn.values()]
    pauses.append(draw(workload, 100, seed=1).pause_s[:50])
    for i, a in enumerate(pauses):
        for b in pauses[:i]:
            assert not np.array_equal(a, b, equal_nan=True)


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("limit", [200, 1000])
def test_the_context_limit_holds(name: str, limit: int) -> None:
    trace = draw(make_workload(name, max_context_tokens=limit))
    trace.validate()
    check_contexts(trace)
    assert trace.max_context_tokens <= limit


def test_unknown_names_options_and_values() -> None:
    with pytest.raises(InputError, match="one of chat-bursts, coding-agent, crossover, infercept"):
        make_workload("nope")
    with pytest.raises(InputError, match=r"'crossover'.*colour"):
        make_workload("crossover", colour=1)
    for options in ({"context_scale": 0.0}, {"min_turns": 0}, {"max_turns": 2}, {"max_pause_s": 0}):
        with pytest.raises(InputError):
            make_workload("coding-agent", **options)
    workload = make_workload("crossover")
    with pytest.raises(InputError, match="num_sessions"):
        draw(workload, 0)
    with pytest.raises(InputError, match="seed"):
        draw(workload, 1, seed=-1)
    with pytest.raises(InputError, match="unknown split"):
        draw(workload, 1, split="dev")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_context_tokens"):
        draw(make_workload("crossover", max_context_tokens=4))


def test_chat_arrives_in_bursts() -> None:
    assert make_workload("chat-bursts").default_arrivals(2.0) == GammaRenewal(2.0, 4.0)
    assert make_workload("crossover").default_arrivals(2.0) == Poisson(2.0)


# --- crossover --------------------------------------------------------------------------------


def test_crossover_pauses_lie_where_the_verbs_differ() -> None:
    trace = draw(make_workload("crossover"), 3000)
    medians = [np.median(trace.pause_s[trace.tool == i]) for i in range(len(trace.tools))]
    np.testing.assert_allclose(medians, [0.3, 0.6, 1.0, 2.0, 3.0], rtol=0.12)
    assert (np.diff(trace.first_turn) >= 4).all() and (np.diff(trace.first_turn) <= 9).all()
    last = trace.first_turn[1:] - 1
    final = (trace.input_tokens + trace.output_tokens)[last]
    assert np.quantile(final, 0.05) > 700 and np.quantile(final, 0.95) < 2048
    assert trace.max_context_tokens <= 2048


# --- against the recordings ---------------------------------------------------------------------

#: figure -> largest ratio between generator and data at p10, p25, p50, p75, p90, p95
CODING_TOLERANCES = {
    "turns": 1.15,
    "input_tokens": 1.30,
    "output_tokens": 1.05,
    "last_input_tokens": 1.40,
    "pause_s tool": 1.10,
    "pause_s human": 1.20,
    "pause_s other": 1.15,
    "new_tokens": 1.45,  # p10: prefixes are recorded in blocks of 64 tokens
}


def coding_figures(trace: Trace) -> dict[str, NDArray[np.float64]]:
    later = is_later(trace)
    new_tokens = trace.input_tokens - trace.shared_prefix_tokens
    figures = {
        "turns": np.diff(trace.first_turn),
        "input_tokens": trace.input_tokens,
        "output_tokens": trace.output_tokens,
        "last_input_tokens": trace.input_tokens[trace.first_turn[1:] - 1],
        "new_tokens": new_tokens[later],
    }
    for index, tool in enumerate(trace.tools):
        figures[f"pause_s {tool}"] = trace.pause_s[trace.tool == index]
    return {name: values.astype(np.float64) for name, values in figures.items()}


def tool_pause_correlation(trace: Trace) -> tuple[float, float]:
    """Share of the sessions in the variance of log tool pauses, and their lag-1 correlation."""
    bounds = zip(trace.first_turn[:-1], trace.first_turn[1:], strict=True)
    sessions = [trace.pause_s[a:b][trace.tool[a:b] == 0] for a, b in bounds]
    logs = [np.log(np.maximum(pauses, 1.0)) for pauses in sessions if len(pauses) > 5]
    every = np.concatenate(logs)
    between = sum(len(log) * (log.mean() - every.mean()) ** 2 for log in logs)
    before, after = (
        np.concatenate([log[part] for log in logs]) for part in (np.s_[:-1], np.s_[1:])
    )
    share = float(between / ((every - every.mean()) ** 2).sum())
    return share, float(np.corrcoef(before, after)[0, 1])


@needs_data
def test_coding_agent_has_the_quantiles_of_the_recording() -> None:
    data = read_trace(DATA / "weka_cc_traces" / "weka_cc_dev.csv.gz")
    workload = make_workload(
        "coding-agent",
        context_scale=1.0,
        min_turns=1,
        max_turns=None,
        max_pause_s=None,
        max_context_tokens=None,
    )
    drawn = draw(workload, 3000)
    assert drawn.tools == data.tools == ("tool", "human", "other")
    recorded, generated = coding_figures(data), coding_figures(drawn)
    levels = [0.10, 0.25, 0.50, 0.75, 0.90, 0.95]
    for name, tolerance in CODING_TOLERANCES.items():
        ratio = np.quantile(generated[name], levels) / np.quantile(recorded[name], levels)
        assert np.abs(np.log(ratio)).max() < np.log(tolerance), f"{name}: {ratio.round(2)}"
    for index in range(3):
        share = [(t.tool == index).sum() / (t.tool >= 0).sum() for t in (data, drawn)]
        assert share[0] == pytest.approx(share[1], abs=0.02)
    for trace, share_tolerance in ((data, 0.01), (drawn, 0.03)):
        share_of_session, lag = tool_pause_correlation(trace)
        assert share_of_session == pytest.approx(0.11, abs=share_tolerance)
        assert lag == pytest.approx(0.21, abs=0.03)
    lost = []
    for trace in (data, drawn):
        before = np.roll(trace.input_tokens, 1)
        ratio = (trace.shared_prefix_tokens / before)[is_later(trace)]
        lost.append((ratio < 0.9).mean())
    assert lost[0] == pytest.approx(lost[1], abs=0.004)


def test_coding_agent_defaults() -> None:
    trace = draw(make_workload("coding-agent"), 2000)
    turns = np.diff(trace.first_turn)
    assert turns.min() == 4 and turns.max() == 12
    assert np.nanmax(trace.pause_s) == 600.0
    assert trace.max_context_tokens <= 32_768
    assert 35 < trace.mean_pause_s() < 60


#: augmentation -> mean call time (s), mean turns, mean final context: the data file's
INFERCEPT_FIGURES = {
    "math": (8.33e-5, 3.81, 939),
    "qa": (0.709, 4.04, 1847),
    "ve": (0.0851, 5.35, 2033),
    "chatbot/human": (28.23, 4.46, 753),
    "image": (11.54, 6.92, 441),
    "tts": (6.06, 6.92, 445),
}


def test_infercept_has_the_published_statistics() -> None:
    trace = draw(make_workload("infercept"), 6000)
    last = trace.first_turn[1:] - 1
    final = (trace.input_tokens + trace.output_tokens)[last]
    kind = trace.tool[trace.first_turn[:-1]]
    for name, (pause_s, turns, context) in INFERCEPT_FIGURES.items():
        index = trace.tools.index(name)
        chosen = kind == index
        assert trace.pause_s[trace.tool == index].mean() == pytest.approx(pause_s, rel=0.06), name
        assert np.diff(trace.first_turn)[chosen].mean() == pytest.approx(turns, rel=0.06), name
        assert final[chosen].mean() == pytest.approx(context, rel=0.12), name
    assert np.nanmax(trace.pause_s) <= 60.0
    shares = np.bincount(kind, minlength=len(trace.tools)) / trace.num_sessions
    assert shares[trace.tools.index("math")] == pytest.approx(98 / 397, abs=0.02)
    assert trace.max_context_tokens <= 2048


def test_infercept_alternates_tool_and_human_and_keeps_environments_constant() -> None:
    trace = draw(make_workload("infercept"), 500)
    for a, b in zip(trace.first_turn[:-1], trace.first_turn[1:], strict=True):
        tools = [trace.tools[i] for i in trace.tool[a : b - 1]]
        if tools[0] in ("image", "tts"):
            assert tools == [tools[0], f"{tools[0]}/human"] * (len(tools) // 2) + [tools[0]]
        if tools[0] == "ve":
            assert len(set(trace.pause_s[a : b - 1])) == 1


def test_infercept_with_the_published_environment() -> None:
    options = {"published_environment": True, "max_context_tokens": 4096}
    trace = draw(make_workload("infercept", **options), 6000)
    chosen = trace.tool[trace.first_turn[:-1]] == trace.tools.index("ve")
    calls = np.diff(trace.first_turn)[chosen] - 1
    assert calls.mean() == pytest.approx(28.18, rel=0.08)
    assert calls.std() == pytest.approx(15.2, rel=0.15)


# --- replay -----------------------------------------------------------------------------------


def recorded_sessions(num_roots: int = 60) -> Trace:
    """Sessions of 10 turns, two to a root, whose first prompt tells them apart."""
    trace = draw(make_workload("coding-agent", min_turns=10, max_turns=10), 2 * num_roots)
    input_tokens = trace.input_tokens.copy()
    input_tokens[trace.first_turn[:-1]] = 1000 + np.arange(2 * num_roots)
    roots = [f"root-{i // 2}" for i in range(2 * num_roots)]
    shared = np.minimum(trace.shared_prefix_tokens, 900)
    return replace(trace, input_tokens=input_tokens, shared_prefix_tokens=shared, roots=roots)


def test_replay_never_shares_a_root_between_splits() -> None:
    workload = TraceWorkload(recorded_sessions())
    roots = {split: set(draw(workload, 100, split).roots) for split in SPLITS}
    for split in SPLITS:
        assert roots[split] and all(split_of_root(root) == split for root in roots[split])
    pools = np.concatenate([workload.pool(split) for split in SPLITS])
    assert sorted(pools.tolist()) == list(range(120))


def test_splits_are_stable_and_have_their_share() -> None:
    # Their hashes begin at 0.24, 0.67 and 0.79 of the range.
    assert [split_of_root(root) for root in ("b", "h", "a")] == list(SPLITS)
    splits = [split_of_root(str(i)) for i in range(20_000)]
    for split, ratio in zip(SPLITS, SPLIT_RATIOS, strict=True):
        assert splits.count(split) / 20_000 == pytest.approx(ratio, abs=0.01)


def test_replay_draws_each_session_once_before_any_twice() -> None:
    workload = TraceWorkload(recorded_sessions())
    size = len(workload.pool("train"))
    trace = draw(workload, 2 * size)
    first = trace.input_tokens[trace.first_turn[:-1]]
    assert len(set(first[:size])) == len(set(first[size:])) == size
    assert len(set(trace.session_ids)) == 2 * size
    assert not np.isnan(trace.arrival_s).any()


@pytest.mark.parametrize("window", ["head", "any"])
def test_replay_cuts_sessions(window: str) -> None:
    workload = TraceWorkload(recorded_sessions(), min_turns=2, max_turns=5, window=window)  # type: ignore[arg-type]
    trace = draw(workload, 200)
    trace.validate()
    check_contexts(trace)
    assert set(np.diff(trace.first_turn)) == {2, 3, 4, 5}
    heads = trace.input_tokens[trace.first_turn[:-1]] < 1200
    assert heads.all() if window == "head" else 0.05 < heads.mean() < 0.6
    assert np.isnan(trace.pause_s[trace.first_turn[1:] - 1]).all()


def test_replay_without_options_changes_nothing_but_names() -> None:
    recorded = recorded_sessions()
    trace = draw(TraceWorkload(recorded), 30)
    for i, name in enumerate(trace.session_ids):
        j = list(recorded.session_ids).index(name.split("@")[0])
        for key in TOKENS:
            a = getattr(trace.select(np.array([i])), key)
            np.testing.assert_array_equal(a, getattr(recorded.select(np.array([j])), key))


def test_replay_refuses_an_empty_split() -> None:
    recorded = recorded_sessions().select(np.array([0, 1]))
    workload = TraceWorkload(recorded)
    empty = [split for split in SPLITS if split != split_of_root("root-0")]
    with pytest.raises(InputError, match=f"falls into the {empty[0]} split .1 conversation"):
        draw(workload, 5, empty[0])
    with pytest.raises(InputError, match="99 turns or more"):
        draw(TraceWorkload(recorded_sessions(), min_turns=99), 5)
    with pytest.raises(InputError, match="window"):
        TraceWorkload(recorded, window="tail")  # type: ignore[arg-type]


@needs_data
def test_replay_of_the_recording_scales_and_cuts() -> None:
    data = read_trace(DATA / "weka_cc_traces" / "weka_cc_dev.csv.gz")
    workload = TraceWorkload(
        data, context_scale=0.25, min_turns=4, max_turns=12, max_context_tokens=32_768
    )
    trace = draw(workload, 500, "test")
    trace.validate()
    check_contexts(trace)
    assert trace.max_context_tokens <= 32_768


@given(scale=st.floats(1e-4, 1.0), limit=st.integers(16, 5000), seed=st.integers(0, 99))
def test_scaling_keeps_a_trace_valid(scale: float, limit: int, seed: int) -> None:
    trace = draw(make_workload("crossover"), 5, seed=seed)
    for scaled in (scale_contexts(trace, scale), fit_contexts(trace, limit)):
        scaled.validate()
        check_contexts(scaled)
    assert fit_contexts(trace, limit).max_context_tokens <= limit
