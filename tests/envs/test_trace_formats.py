from __future__ import annotations

import gzip
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkv_engine.trace import Trace
from rlkv_envs.traces import detect, read_trace, write_trace
from rlkv_envs.traces.servegen_csv import read_windows
from rlkv_envs.traces.statistics import trace_statistics

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the recorded traces are not here")


def assert_same(a: Trace, b: Trace) -> None:
    """Every field equal, bit by bit."""
    for spec in fields(Trace):
        left, right = getattr(a, spec.name), getattr(b, spec.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, spec.name
            np.testing.assert_array_equal(left, right, err_msg=spec.name)
        elif isinstance(left, (int, str)):
            assert left == right, spec.name
        else:
            assert list(left) == list(right), spec.name


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Any valid trace: odd names, equal arrivals, one-turn sessions, unused tools."""
    num_turns = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    tools = tuple(draw(st.lists(names, min_size=1, max_size=3, unique=True)))
    size = sum(num_turns)
    first_turn = np.concatenate([[0], np.cumsum(num_turns)]).astype(np.int64)
    tokens = st.lists(st.integers(1, 2**30), min_size=size, max_size=size)
    input_tokens = np.array(draw(tokens), np.int64)
    output_tokens = np.array(draw(tokens), np.int64)
    context = np.concatenate([[0], (input_tokens + output_tokens)[:-1]])
    context[first_turn[:-1]] = 0
    share = draw(st.lists(st.floats(0, 1), min_size=size, max_size=size))
    shared = np.floor(np.minimum(context, input_tokens) * np.array(share)).astype(np.int64)
    seconds = st.floats(0, 1e9, allow_subnormal=False)
    pause_s = np.array(draw(st.lists(seconds, min_size=size, max_size=size)))
    tool = np.array(draw(st.lists(st.integers(0, len(tools) - 1), min_size=size, max_size=size)))
    tool[first_turn[1:] - 1] = -1
    pause_s[first_turn[1:] - 1] = np.nan
    sessions = len(num_turns)
    arrival_s = np.full(sessions, np.nan)
    if draw(st.booleans()):
        arrival_s = np.sort(draw(st.lists(seconds, min_size=sessions, max_size=sessions)))
    return Trace(
        name=draw(names),
        tools=tools,
        first_turn=first_turn,
        arrival_s=arrival_s,
        input_tokens=input_tokens,
        shared_prefix_tokens=shared,
        output_tokens=output_tokens,
        tool=tool.astype(np.int64),
        pause_s=pause_s,
        session_ids=draw(st.lists(names, min_size=sessions, max_size=sessions, unique=True)),
        roots=draw(st.lists(names, min_size=sessions, max_size=sessions)),
        num_concurrent=draw(st.integers(0, 9)),
    )


@given(trace=traces())
def test_own_format_round_trip_is_exact(
    tmp_path_factory: pytest.TempPathFactory, trace: Trace
) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.jsonl"
    write_trace(trace, path)
    assert detect(path) == "rlkv"
    assert_same(read_trace(path), trace)


def test_own_format_by_hand_needs_no_header_root_or_arrival(tmp_path: Path) -> None:
    turn = {"session_id": "a", "turn": 0, "input_tokens": 10, "shared_prefix_tokens": 0}
    rows: list[dict[str, object]] = [
        turn | {"output_tokens": 5, "tool": "sh", "pause_s": 2},
        turn | {"turn": 1, "input_tokens": 20, "shared_prefix_tokens": 15, "output_tokens": 1}
        | {"tool": None, "pause_s": None},
    ]  # fmt: skip
    path = write_lines(tmp_path / "mine.jsonl", rows)
    zipped = tmp_path / "zipped"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    for trace in (read_trace(path), read_trace(zipped)):
        assert trace.roots == ["a"] and np.isnan(trace.arrival_s).all()
        assert trace.tools == ("sh",) and trace.pause_s[0] == 2.0 and trace.tool[1] == -1
    assert read_trace(path).name == "mine"


def test_sessions_are_sorted_by_arrival(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"session_id": name, "turn": 0, "input_tokens": 1, "shared_prefix_tokens": 0}
        | {"output_tokens": 1, "tool": None, "pause_s": None, "arrival_s": arrival_s}
        for name, arrival_s in (("late", 5.0), ("early", 1.0))
    ]
    trace = read_trace(write_lines(tmp_path / "x.jsonl", rows))
    assert trace.session_ids == ["early", "late"]


# --- WEKA -----------------------------------------------------------------------------------


def weka_document() -> dict[str, object]:
    """Three turns and a sub-agent; the second request has no service time."""
    request = {"type": "n", "in": 200, "out": 10, "hash_ids": [1, 2, 3, 4], "stop": "tool_use"}
    requests: list[dict[str, object]] = [
        request | {"t": 0.0, "api_time": 3.0, "think_time": 0.0},
        {"type": "subagent", "t": 4.0, "agent_id": "agent_001"}
        | {"requests": [request | {"t": 0.0}, request | {"t": 9.0, "think_time": 4.0}]},
        request | {"t": 10.0, "think_time": 7.0, "hash_ids": [1, 2, 9, 9], "stop": ""},
        request | {"t": 30.0, "think_time": 27.0, "hash_ids": [1, 2, 9, 9, 10], "stop": "end_turn"},
    ]
    return {"id": "w1", "block_size": 64, "hash_id_scope": "local", "requests": requests}


def test_weka_sub_agents_prefixes_and_pauses(tmp_path: Path) -> None:
    (tmp_path / "w1.json").write_text(json.dumps(weka_document(), indent=1))
    assert detect(tmp_path) == detect(tmp_path / "w1.json") == "weka"
    trace = read_trace(tmp_path)
    assert_same(trace, read_trace(tmp_path, "weka"))
    assert trace.session_ids == ["w1", "w1.agent_001"]
    assert trace.roots == ["w1", "w1"]
    assert trace.shared_prefix_tokens.tolist() == [0, 128, 200, 0, 200]
    # 27 s of think time cannot fit into the 20 s between the second and the third request.
    np.testing.assert_array_equal(trace.pause_s, [7.0, 20.0, np.nan, 4.0, np.nan])
    assert [trace.tools[i] if i >= 0 else "" for i in trace.tool] == [
        "tool",
        "other",
        "",
        "tool",
        "",
    ]


@needs_data
def test_weka_table_agrees_with_the_documents_it_was_made_from() -> None:
    table = read_trace(DATA / "weka_cc_traces" / "weka_cc_dev.csv.gz")
    documents = read_trace(DATA / "weka_cc_traces" / "raw_sample")
    assert (table.num_sessions, table.num_turns, len(set(table.roots))) == (537, 33445, 487)
    assert documents.num_sessions == 9
    by_name = {name: i for i, name in enumerate(table.session_ids)}
    for i, name in enumerate(documents.session_ids):
        number, _, agent = name.removeprefix("trace_").partition(".agent_")
        j = by_name[f"w{number}" + (f".{int(agent)}" if agent else "")]
        a, b = documents.select(np.array([i])), table.select(np.array([j]))
        for key in ("input_tokens", "output_tokens", "shared_prefix_tokens", "pause_s"):
            np.testing.assert_array_equal(getattr(a, key), getattr(b, key), err_msg=f"{name} {key}")


# --- the other formats ------------------------------------------------------------------------


@needs_data
def test_infercept_traps() -> None:
    trace = read_trace(DATA / "infercept_mixed" / "infercept_mixed_numeric.csv")
    assert (trace.num_sessions, trace.num_turns) == (397, 2054)
    # 1,841 calls, of which each image, tts and ve request has one with nothing after it.
    assert int(np.isfinite(trace.pause_s).sum()) == 1841 - 65 - 65 - 54
    assert trace.roots[trace.session_ids.index("0_3")] == trace.roots[trace.session_ids.index("0")]
    later = np.ones(trace.num_turns, bool)
    later[trace.first_turn[:-1]] = False
    # The whole context so far is shared: later prompts only add what came back.
    context = np.roll(trace.input_tokens + trace.output_tokens, 1)
    np.testing.assert_array_equal(trace.shared_prefix_tokens[later], context[later])
    assert (trace.input_tokens[later] >= context[later]).all()
    last = trace.first_turn[1:] - 1
    final = (trace.input_tokens + trace.output_tokens)[last]
    is_chat = trace.tool[trace.first_turn[:-1]] == trace.tools.index("chatbot/human")
    assert final[is_chat].mean() == pytest.approx(753, abs=1)  # as published


@needs_data
def test_tracelab_pauses_follow_the_last_parallel_tool() -> None:
    trace = read_trace(DATA / "tracelab_example" / "round_trace.jsonl")
    assert (trace.num_sessions, trace.num_turns) == (2, 19)
    assert trace.arrival_s[0] == 0 and trace.session_ids[1].startswith("claude")
    claude = trace.select(np.array([1]))
    assert claude.tools[claude.tool[0]] == "WebSearch"  # slower than the Bash beside it
    assert claude.pause_s[0] == pytest.approx(50.938 - 31.647, abs=1e-3)
    assert claude.tools[claude.tool[4]] == "human"
    assert claude.shared_prefix_tokens[0] == 0  # what other sessions cached does not count


@needs_data
def test_mooncake_sessions_are_inferred() -> None:
    trace = read_trace(DATA / "mooncake" / "conversation_trace.jsonl")
    assert trace.num_turns == 12031
    assert 0.30 < 1 - trace.num_sessions / trace.num_turns < 0.40
    assert np.nanmedian(trace.pause_s) == pytest.approx(123, abs=5)
    later = np.ones(trace.num_turns, bool)
    later[trace.first_turn[:-1]] = False
    assert (trace.shared_prefix_tokens[later] >= 1024).all()


def test_mooncake_continues_the_longest_prefix_once(tmp_path: Path) -> None:
    def row(stamp: int, blocks: list[int]) -> dict[str, object]:
        length = 512 * len(blocks) - 100
        return {"timestamp": stamp, "input_length": length, "output_length": 0, "hash_ids": blocks}

    rows = [
        row(0, [0, 1, 2, 3]),
        row(0, [0, 7]),  # a stranger: one block, the system prompt, is no session
        row(3000, [0, 1, 2, 4, 5]),  # continues the first
        row(6000, [0, 1, 2, 6, 9]),  # the second to continue it: a session of the same root
        row(9000, [0, 8, 9]),
    ]
    trace = read_trace(write_lines(tmp_path / "m.jsonl", rows))
    assert np.diff(trace.first_turn).tolist() == [2, 1, 1, 1]
    assert trace.shared_prefix_tokens.tolist()[:2] == [0, 3 * 512]
    assert trace.pause_s[0] == 3.0
    assert trace.output_tokens.tolist() == [1] * 5
    assert trace.roots == ["m000000", "m000001", "m000000", "m000003"]


def test_agentic_mooncake_dependencies(tmp_path: Path) -> None:
    row = {"output_length": 8, "input_length": 60, "hash_ids": [1, 2, 3, 4]}
    event = {"tool_class": "bash", "duration_ms": 900.0}
    rows: list[dict[str, object]] = [
        row | {"request_id": "r1", "session_id": "s", "timestamp": 500.0, "branches": ["r3"]},
        row | {"request_id": "r2", "session_id": "s", "wait_for": ["r1"], "delay": 100.0}
        | {"tool_wait_ms": 900.0, "tool_events": [event], "input_length": 76}
        | {"hash_ids": [1, 2, 3, 9, 10]},
        row | {"request_id": "r3", "session_id": "child", "wait_for": ["r1"]},
        row | {"request_id": "r4", "session_id": "s", "wait_for": ["r2", "r3"]}
        | {"prefix_reset": True},
        row | {"request_id": "r5", "timestamp": 100.0},
    ]  # fmt: skip
    path = write_lines(tmp_path / "a.jsonl", rows)
    assert detect(path) == "agentic-mooncake"
    trace = read_trace(path)
    assert trace.session_ids == ["r5", "s", "child"]
    assert trace.roots == ["r5", "s", "s"]
    assert trace.arrival_s.tolist() == [0.1, 0.5, 0.5]
    assert trace.shared_prefix_tokens.tolist() == [0, 0, 3 * 16, 0, 0]
    assert trace.pause_s[1:3].tolist() == [1.0, 0.0]
    assert trace.tools == ("bash", "other")


@needs_data
def test_azure_requests_are_sessions_of_one_turn() -> None:
    trace = read_trace(DATA / "azure_llm_2023" / "AzureLLMInferenceTrace_conv.csv")
    assert trace.num_sessions == trace.num_turns == 19366
    assert trace.arrival_s[0] == 0.0
    assert trace.arrival_s[1] == pytest.approx(4.314579, abs=1e-5)
    assert trace_statistics(trace)["arrival_rate_per_s"] == pytest.approx(5.53, abs=0.01)


@needs_data
@pytest.mark.parametrize("client", range(10))
def test_servegen_windows(client: int) -> None:
    path = DATA / "servegen_arrivals" / f"chunk-{client}-trace.csv"
    assert detect(path) == "servegen"
    windows = read_windows(path)
    assert windows.window_s == 600.0 and len(windows.rate_per_s) == 2016


@needs_data
def test_every_trace_is_recognised() -> None:
    names = {
        "azure_llm_2023/AzureLLMInferenceTrace_conv.csv": "azure",
        "infercept_mixed/infercept_mixed_numeric.csv": "infercept",
        "mooncake/conversation_trace.jsonl": "mooncake",
        "tracelab_example/round_trace.jsonl": "tracelab",
        "weka_cc_traces/weka_cc_dev.csv.gz": "weka-csv",
        "weka_cc_traces/raw_sample/trace_0222.json": "weka",
    }
    assert {name: detect(DATA / name) for name in names} == names
