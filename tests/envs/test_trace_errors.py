from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlkv_engine.errors import InputError
from rlkv_envs.traces import FORMATS, detect, lines, read_trace, write_trace
from rlkv_envs.traces.servegen_csv import read_windows

TURN = {
    "session_id": "a",
    "turn": 0,
    "input_tokens": 10,
    "shared_prefix_tokens": 0,
    "output_tokens": 5,
    "tool": "sh",
    "pause_s": 1.5,
}
LAST = TURN | {"turn": 1, "input_tokens": 20, "tool": None, "pause_s": None}
WEKA = (
    "session_id,round_idx,t_s,input_tokens,output_tokens,shared_prefix_tokens,api_time_s,pause_s,"
    "pause_kind\n"
)
INFERCEPT = (
    "request_id,augmentation,segment,n_segments,prompt_tokens,completion_tokens,has_call,"
    "call_kind,api_time_s,return_tokens\n"
)
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
STAMP = "2023-11-16 18:15:46.68"
ROUND = {
    "session_id": "s",
    "round_index": 0,
    "input_tokens_total": 5,
    "prefix_tokens": 0,
    "output_tokens": 1,
}
MOON = {"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [0, 1]}
AGENT = {"request_id": "r", "input_length": 60, "output_length": 1, "timestamp": 0}


def rows(*turns: dict[str, object]) -> str:
    return "".join(json.dumps(turn) + "\n" for turn in turns)


def weka(*requests: dict[str, object]) -> str:
    return json.dumps({"id": "w", "block_size": 64, "hash_id_scope": "local", "requests": requests})


def without(row: dict[str, object], key: str) -> dict[str, object]:
    return {name: value for name, value in row.items() if name != key}


#: format, content, line of the mistake (0: none to name), part of the reason
MISTAKES = [
    ("rlkv", rows(without(TURN, "input_tokens"), LAST), 1, "input_tokens"),
    ("rlkv", rows(TURN | {"input_tokens": -3}, LAST), 1, "input_tokens"),
    ("rlkv", rows(TURN | {"output_tokens": 0}, LAST), 1, "output_tokens"),
    ("rlkv", rows(TURN | {"output_tokens": 2.5}, LAST), 1, "output_tokens"),
    ("rlkv", rows(TURN | {"output_tokens": "5"}, LAST), 1, "output_tokens"),
    ("rlkv", rows(TURN, LAST | {"input_tokens": 2**40}), 2, "input_tokens"),
    ("rlkv", rows(TURN, LAST | {"shared_prefix_tokens": 16}), 2, "context so far 15"),
    ("rlkv", rows(TURN | {"pause_s": -1.0}, LAST), 1, "pause_s"),
    ("rlkv", rows(TURN | {"pause_s": None}, LAST), 2, "needs a tool and a pause_s"),
    ("rlkv", rows(TURN | {"pause_s": float("nan")}, LAST), 1, "not valid JSON"),
    ("rlkv", rows(LAST, TURN), 1, "expected turn 0, got turn 1"),
    ("rlkv", rows(TURN, TURN), 2, "expected turn 1, got turn 0"),
    ("rlkv", rows(TURN, LAST | {"turn": 2}), 2, "expected turn 1, got turn 2"),
    ("rlkv", rows(TURN, LAST | {"session_id": "b", "turn": 0}, LAST), 3, "appears again"),
    ("rlkv", rows(TURN)[:-9], 1, "not valid JSON"),
    ("rlkv", rows(TURN) + '{"x":' + "[" * 100_000, 2, "JSON"),
    ("rlkv", rows({"rlkv_trace": 2, "name": "x"}), 1, "rlkv_trace"),
    ("rlkv", rows({"rlkv_trace": 1, "name": "x"}), 0, "no sessions"),
    (
        "rlkv",
        rows(TURN | {"arrival_s": 1.0}, LAST, LAST | {"session_id": "b", "turn": 0}),
        0,
        "'b' has no arrival",
    ),
    ("weka-csv", WEKA.replace("t_s,", ""), 1, "missing column t_s"),
    ("weka-csv", WEKA + "a,0,0,5,1,0,,,end,9\n", 2, "expected 9 cells, got 10"),
    ("weka-csv", WEKA + "a,0,0,5,-1,0,,,end\na,1,0,5,-1,0,,,end\n", 3, "follows pause_kind 'end'"),
    ("weka-csv", WEKA + "a,0,0,-5,1,0,,,end\n", 2, "input tokens must be 1"),
    ("weka-csv", WEKA + "a,0,0,5.5,1,0,,,end\n", 2, "input_tokens must be a whole number"),
    ("weka-csv", WEKA + "a,0,nan,5,1,0,,,end\n", 2, "t_s must be a finite number"),
    ("weka-csv", WEKA + "a,0,9,5,1,0,,3,tool\na,1,8,5,1,0,,,end\n", 3, "starts before"),
    ("weka-csv", WEKA + "a,1,9,5,1,0,,3,tool\n", 2, "expected turn 0, got turn 1"),
    ("weka-csv", WEKA + "a,0,9,5,1,0,,3,nap\n", 2, "pause_kind"),
    ("weka-csv", WEKA, 0, "no sessions"),
    ("weka", weka({"t": 0, "type": "n", "in": 5, "out": 1}), 0, "lacks in, out or hash_ids"),
    ("weka", weka({"t": 0, "type": "n", "in": -5, "out": 1, "hash_ids": []}), 0, "requests[0].in"),
    ("weka", weka({"t": 0, "type": "n", "in": 0, "out": 1, "hash_ids": []}), 0, "input tokens"),
    (
        "weka",
        weka(
            {"t": 5, "type": "n", "in": 5, "out": 1, "hash_ids": [1]},
            {"t": 4, "type": "n", "in": 5, "out": 1, "hash_ids": [1]},
        ),
        0,
        "starts before",
    ),
    ("weka", weka({"t": 0, "type": "n"})[:-1], 0, "not valid JSON"),
    ("infercept", INFERCEPT + "a,math,0,2,5,5,1,tool,x,3\n", 2, "api_time_s"),
    ("infercept", INFERCEPT + "a,math,0,2,5,5,1,nobody,1,3\n", 2, "call_kind"),
    ("infercept", INFERCEPT + "a,math,0,2,5,5,2,tool,1,3\n", 2, "has_call"),
    ("infercept", INFERCEPT + "a,math,0,2,5,5,0,,,\na,math,1,2,5,5,0,,,\n", 3, "without a call"),
    ("infercept", INFERCEPT + "a,math,0,2,5,5,1,tool,1,3\n" * 2, 3, "expected turn 1"),
    ("azure", AZURE + f"{STAMP},10,1.5\n", 2, "GeneratedTokens"),
    ("azure", AZURE + f"{STAMP},10\n", 2, "expected 3 cells, got 2"),
    ("azure", AZURE + "yesterday,10,5\n", 2, "TIMESTAMP"),
    ("azure", AZURE + f"{STAMP},0,5\n", 2, "input tokens must be 1"),
    ("tracelab", rows(ROUND | {"round_index": 1}), 1, "expected round 0, got round 1"),
    ("tracelab", rows(ROUND, ROUND), 2, "expected round 1, got round 0"),
    ("tracelab", rows(without(ROUND, "output_tokens")), 1, "output_tokens"),
    (
        "tracelab",
        rows(ROUND | {"timing_events": [{"event_type": "text", "timestamp": "noon"}]}),
        1,
        "timestamp must look like",
    ),
    ("mooncake", rows(MOON | {"timestamp": 5}, MOON), 2, "ascending"),
    ("mooncake", rows(MOON | {"input_length": 1025}), 1, "needs 3 hash_ids, got 2"),
    ("mooncake", rows(MOON | {"input_length": 0}), 1, "input_length"),
    ("agentic-mooncake", rows(AGENT, AGENT), 2, "appears twice"),
    ("agentic-mooncake", rows(AGENT | {"wait_for": ["x"]}), 1, "waits for 'x'"),
    ("agentic-mooncake", rows(without(AGENT, "timestamp")), 1, "needs a timestamp"),
    (
        "agentic-mooncake",
        rows(AGENT | {"hash_ids": [1]}, AGENT | {"request_id": "q", "hash_ids": [1] * 9}),
        2,
        "fit no block size",
    ),
]


@pytest.mark.parametrize(("name", "content", "line", "reason"), MISTAKES)
def test_mistakes_are_named_with_their_place(
    tmp_path: Path, name: str, content: str, line: int, reason: str
) -> None:
    path = tmp_path / "trace"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_trace(path, name)
    message = str(caught.value)
    assert reason in message
    assert message.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("0,1\n", "expected 6 columns"),
        ("0,1,1,Pareto,1,1\n600,1,1,Gamma,1,1\n", "unknown family 'Pareto'"),
        ("0,1,1,Gamma,0,1\n", "shape"),
        ("0,-1,1,Gamma,1,1\n", "rate"),
        ("0,1,1,Gamma,1,1\n0,1,1,Gamma,1,1\n", "in order"),
        ("0,1,1,Gamma,1,1\n600,1,1,Gamma,1,1\n900,1,1,Gamma,1,1\n", "one length"),
        ("0,0,0,,0,0\n600,0,0,,0,0\n", "no window has arrivals"),
        ("0,1,1,Gamma,1,1\n", "fewer than two windows"),
    ],
)
def test_mistakes_in_windows(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "chunk.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=reason):
        read_windows(path)


def test_windows_are_not_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "chunk.csv"
    path.write_text("0,1,1,Gamma,1,1\n600,1,1,Gamma,1,1\n")
    with pytest.raises(InputError, match="no sessions"):
        read_trace(path)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"hello\nworld\n", b"\x80\x81", b"{}", b"a,b"])
def test_unknown_content(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"empty|not a known trace format"):
        detect(path)
    for name in FORMATS:
        with pytest.raises(InputError):
            read_trace(path, name)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_trace(tmp_path / "missing.jsonl")
    with pytest.raises(InputError, match=r"no \*\.json files"):
        read_trace(tmp_path)
    for name in FORMATS:
        with pytest.raises(InputError):
            read_trace(tmp_path, name)
    with pytest.raises(InputError, match="unknown format 'csv'"):
        read_trace(tmp_path, "csv")


def test_truncated_and_damaged_gzip(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl.gz"
    whole = gzip.compress(rows(*[TURN | {"session_id": str(i)} for i in range(999)]).encode())
    path.write_bytes(whole[:-20])
    with pytest.raises(InputError, match="truncated"):
        read_trace(path, "rlkv")
    path.write_bytes(whole[:40] + bytes(99) + whole[139:])
    with pytest.raises(InputError):
        read_trace(path, "rlkv")
    path.write_bytes(b"\x1f\x8b\xff\xff")
    with pytest.raises(InputError, match="gzip"):
        detect(path)


def test_invalid_utf8(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(rows(TURN).encode().replace(b'"sh"', b'"\xff"'))
    with pytest.raises(InputError, match="JSON"):
        read_trace(path, "rlkv")
    path.write_bytes(WEKA.encode() + b"\xff,0,0,5,1,0,,,end\n")
    with pytest.raises(InputError, match="UTF-8"):
        read_trace(path, "weka-csv")


def test_a_long_line_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trace"
    with path.open("wb") as stream:
        stream.seek(2**30)  # a sparse file: one line of 1 GiB
        stream.write(b"}")
    for name in set(FORMATS) - {"weka", "servegen"}:
        with pytest.raises(InputError, match="longer than 16 MiB"):
            read_trace(path, name)
    with pytest.raises(InputError, match="longer than 64 MiB"):
        read_trace(path, "weka")
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 2**20)
    path.write_bytes(gzip.compress(bytes(2**22)))  # small on disk, long when unpacked
    with pytest.raises(InputError, match="longer than 1 MiB"):
        read_trace(path, "rlkv")


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(rows(TURN, LAST))
    trace = read_trace(path)
    with pytest.raises(InputError, match="cannot write"):
        write_trace(trace, tmp_path / "missing" / "out.jsonl")
    out = tmp_path / "out.jsonl"
    out.write_text("earlier")
    with pytest.raises(UnicodeEncodeError):
        write_trace(replace(trace, session_ids=["\ud800"]), out)
    assert out.read_text() == "earlier"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


SAMPLES = [content.encode() for _, content, _, _ in MISTAKES] + [rows(TURN, LAST).encode()]


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A nearly good file with some bytes replaced, dropped or doubled; or noise."""
    content = bytearray(draw(st.sampled_from(SAMPLES))[:4000])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        dropped = draw(st.integers(0, 8))
        content[at : at + dropped] = draw(st.binary(max_size=6))
    return bytes(content)


@given(content=damaged_files() | st.binary(max_size=200), zipped=st.booleans())
@example(content=b'{"rlkv_trace":1,"name":"a","tools":["x","x"]}\n', zipped=False)
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, zipped: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(gzip.compress(content) if zipped else content)
    for name in (None, *FORMATS):
        try:
            read_trace(path, name).validate()
        except InputError as error:
            assert "\n" not in str(error)
    try:
        read_windows(path)
    except InputError as error:
        assert "\n" not in str(error)
