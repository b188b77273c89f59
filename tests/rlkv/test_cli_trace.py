from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlkv_engine.errors import InputError
from rlkv_envs.scenario import PRESETS
from rlkv_envs.traces import read_trace
from rlkv_envs.workloads import WORKLOADS, make_trace, make_workload
from rlkv_envs.workloads.arrivals import Poisson
from tests.rlkv.command_line import printed

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the recorded traces are not here")

FILES = [
    "azure_llm_2023/AzureLLMInferenceTrace_conv.csv",
    "infercept_mixed/infercept_mixed_numeric.csv",
    "mooncake/conversation_trace.jsonl",
    "tracelab_example/round_trace.jsonl",
    "weka_cc_traces/weka_cc_dev.csv.gz",
    "weka_cc_traces/raw_sample",
    "weka_cc_traces/raw_sample/trace_0222.json",
    *(f"servegen_arrivals/chunk-{client}-trace.csv" for client in range(10)),
]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A small trace in the own format."""
    from rlkv_envs.traces import write_trace

    path = tmp_path / "own.jsonl"
    drawn = make_trace(
        make_workload("infercept"), Poisson(1.0), seed=0, split="test", num_sessions=40
    )
    write_trace(drawn, path)
    return path


@needs_data
@pytest.mark.parametrize("name", FILES)
def test_check_and_stats_accept_every_recorded_trace(name: str) -> None:
    path = str(DATA / name)
    assert ": ok, " in printed("trace", "check", path)
    figures = json.loads(printed("trace", "stats", path, "--json"))
    output = printed("trace", "stats", path)
    if name.startswith("servegen"):
        assert figures["num_windows"] == 2016 and "no sessions" in output
    else:
        assert figures["num_turns"] >= figures["num_sessions"] >= figures["num_roots"] >= 1
        assert "input_tokens" in output


def test_check_says_what_is_in_the_file(own: Path) -> None:
    assert "ok, rlkv: 40 sessions" in printed("trace", "check", str(own))
    figures = json.loads(printed("trace", "check", str(own), "--json"))
    assert figures["format"] == "rlkv" and figures["num_sessions"] == 40
    with pytest.raises(InputError, match="not valid CSV"):
        printed("trace", "check", str(own), "--format", "azure")
    with pytest.raises(InputError, match="unknown format"):
        printed("trace", "check", str(own), "--format", "nope")


def test_stats_fit_a_terminal_and_agree_with_json(own: Path) -> None:
    output = printed("trace", "stats", str(own))
    assert max(map(len, output.splitlines())) <= 80
    assert "…" not in output
    figures = json.loads(printed("trace", "stats", str(own), "--json"))
    assert figures["turns"]["count"] == 40
    assert set(figures["pause_s"]) <= set(make_workload("infercept").tools)
    quantiles = figures["pause_s"]["math"]
    assert 0 <= quantiles["p10"] <= quantiles["p50"] <= quantiles["p99"] <= quantiles["max"]


@pytest.mark.pictures
def test_stats_draw_a_picture(own: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    png = tmp_path / "pauses.png"
    printed("trace", "stats", str(own), "--png", str(png))
    assert png.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="cannot write"):
        printed("trace", "stats", str(own), "--png", str(tmp_path / "missing" / "x.png"))


def test_nothing_to_draw_leaves_an_earlier_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    source = tmp_path / "azure.csv"
    source.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,9,9\n")
    png = tmp_path / "earlier.png"
    png.write_text("earlier")
    with pytest.raises(InputError, match="no pauses"):
        printed("trace", "stats", str(source), "--png", str(png))
    windows = tmp_path / "chunk.csv"
    windows.write_text("0,1,1,Gamma,1,1\n600,1,1,Gamma,1,1\n")
    with pytest.raises(InputError, match="no pauses"):
        printed("trace", "stats", str(windows), "--png", str(png))
    assert png.read_text() == "earlier"


def test_convert_writes_the_own_format(own: Path, tmp_path: Path) -> None:
    source = tmp_path / "azure.csv"
    source.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,9,7\n")
    out = tmp_path / "out.jsonl"
    printed("trace", "convert", str(source), str(out))
    assert read_trace(out).output_tokens.tolist() == [7]
    printed("trace", "convert", str(own), str(tmp_path / "again.jsonl"))
    assert (tmp_path / "again.jsonl").read_bytes() == own.read_bytes()
    with pytest.raises(InputError, match="cannot write"):
        printed("trace", "convert", str(source), str(tmp_path))
    source.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,9,x\n")
    before = out.read_bytes()
    with pytest.raises(InputError, match="GeneratedTokens"):
        printed("trace", "convert", str(source), str(out))
    assert out.read_bytes() == before


def test_scenarios_are_listed() -> None:
    listed = json.loads(printed("workloads", "scenarios", "--json"))
    assert [row["name"] for row in listed] == list(PRESETS)
    assert {row["workload"] for row in listed} <= set(WORKLOADS)
    assert all(name in printed("workloads", "scenarios") for name in PRESETS)


def test_workloads_are_listed_and_shown() -> None:
    listed = json.loads(printed("workloads", "list", "--json"))
    assert [row["name"] for row in listed] == list(WORKLOADS)
    output = printed("workloads", "list")
    assert all(name in output for name in WORKLOADS)
    for name in WORKLOADS:
        assert name in printed("workloads", "show", name)
        shown = json.loads(printed("workloads", "show", name, "--json"))
        assert shown["options"]["max_context_tokens"] and shown["sample"]["num_sessions"] == 1000
    with pytest.raises(InputError, match="one of chat-bursts"):
        printed("workloads", "show", "nope")
