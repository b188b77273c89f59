"""The bench on real vLLM servers, but for the servers: tests/vllm has these."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import rlkv.bench
from rlkv.bench import run_bench
from rlkv.bench.intervals import mean_interval, ratio_interval
from rlkv.bench.measure import Size
from rlkv.bench.vllm_costs import Costs, Load, Memory
from rlkv.bench.vllm_process import VARIABLE
from rlkv.bench.vllm_runs import compared, run_figures, working_set_ratio
from rlkv.real_vllm.player import Played, TurnSeen
from rlkv.real_vllm.server import BLOCK_SIZE
from rlkv.report.vllm_picture import vllm_png
from rlkv_engine.errors import InputError
from rlkv_engine.paged.tiny_tokenizer import SPECIAL_TOKENS, VOCAB_SIZE
from tests.rlkv.command_line import run

COSTS = Costs(prefill_token_s=1e-4, decode_token_s=1e-2)


def played(first_token_s: float = 0.2) -> Played:
    def agent(turn: int, cached: int, first_token_s: float, pause_s: float) -> TurnSeen:
        return TurnSeen("a", True, turn, 96, cached, 32, pause_s, first_token_s, 1.0)

    return Played(
        [
            agent(0, 0, 0.9, 3.0),
            agent(1, 48, first_token_s, 2.0),
            TurnSeen("s", False, 0, 10, 7, 1, 0.0, 0.5, 0.5),
            agent(2, 96, first_token_s, 0.0),
        ],
        8.0,
    )


def test_an_interval_is_students() -> None:
    mean, interval = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and interval is not None
    # t of two degrees of freedom is 4.303, the standard error 1 / sqrt(3).
    assert interval[1] - 2.0 == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert mean_interval([4.0]) == (4.0, None)


def test_a_ratio_is_of_pairs() -> None:
    # Runs that differ a lot, all twice as long: nothing is uncertain about that.
    ratio, interval = ratio_interval([2.0, 20.0, 200.0], [1.0, 10.0, 100.0])
    assert interval is not None
    assert (ratio, *interval) == pytest.approx((2.0, 2.0, 2.0))
    ratio, interval = ratio_interval([3.0], [1.0])
    assert ratio == pytest.approx(3.0) and interval is None


def test_figures_of_a_run() -> None:
    figures = run_figures(played())
    # Only turns that came back count for what was cached, and for a tool's return.
    assert figures["cached_share"] == (48 + 96) / (2 * 96)
    assert figures["resume_p50_s"] == pytest.approx(0.2)
    assert figures["agent_turn_p50_s"] == figures["agent_turn_p90_s"] == 1.0
    assert figures["stranger_turn_p90_s"] == 0.5
    assert figures["agent_latency_s"] == pytest.approx(3.0 / 96)
    assert figures["total_s"] == 8.0
    # Four blocks for 1 + 3, 1 + 2 and 1 seconds of 8, over a pool of 2.
    assert working_set_ratio(played(), 2) == pytest.approx(4 * 8 / 8 / 2)


def test_other_policies_are_compared_in_pairs() -> None:
    stock = [run_figures(played(0.2)), run_figures(played(0.4))]
    ours = [run_figures(played(0.1)), run_figures(played(0.2))]
    entry = compared(ours, stock)["resume_p50_s"]
    assert entry["mean"] == pytest.approx(0.15)
    assert entry["over_lru"] == pytest.approx(0.5)
    assert entry["over_lru_ci95"] == pytest.approx([0.5, 0.5])
    assert "over_lru" not in compared(stock, stock)["resume_p50_s"]
    assert "over_lru" not in compared(ours, stock)["cached_share"]


def test_traffic_depends_on_its_seed_alone() -> None:
    size = Size()
    memory = Memory.of(size)
    load = Load.of(COSTS, memory, size)
    sessions, again, other = load.sessions(0), load.sessions(0), load.sessions(1)
    assert sessions == again
    firsts = [tuple(s.turns[0].new_tokens[:8]) for s in (*sessions, *other)]
    assert len(set(firsts)) == len(firsts)
    agents = [session for session in sessions if session.is_agent]
    assert len(agents) == size.vllm_agents < len(sessions)
    for session in agents:
        context = 0
        for turn in session.turns:
            assert turn.kept_tokens <= context
            context = turn.kept_tokens + len(turn.new_tokens) + turn.output_tokens
            assert context <= size.vllm_context_tokens
            assert all(len(SPECIAL_TOKENS) <= token < VOCAB_SIZE for token in turn.new_tokens)
        assert [bool(turn.tool) for turn in session.turns] == [True] * (session.num_turns - 1) + [
            False
        ]


def test_a_slower_machine_gets_slower_traffic() -> None:
    size = Size()
    memory = Memory.of(size)
    fast, slow = (
        Load.of(Costs(factor * 1e-4, factor * 1e-2), memory, size) for factor in (1.0, 3.0)
    )
    assert slow.mean_pause_s == pytest.approx(3.0 * fast.mean_pause_s)
    assert slow.agents_per_s == pytest.approx(fast.agents_per_s / 3.0)
    assert slow.strangers_per_s == pytest.approx(fast.strangers_per_s / 3.0)
    assert slow.num_strangers == fast.num_strangers


def test_memory_is_short_and_holds_the_longest() -> None:
    size = Size()
    memory = Memory.of(size)
    wanted = size.vllm_concurrent * memory.mean_context_tokens / BLOCK_SIZE
    assert memory.num_blocks == pytest.approx(wanted / size.vllm_pressure, rel=0.1)
    large = Memory.of(Size(vllm_pressure=100.0))
    assert large.num_blocks == size.vllm_context_tokens // BLOCK_SIZE + 1


@pytest.mark.parametrize(
    ("policies", "said"),
    [(("lru", "mru"), "unknown policy 'mru'"), (("rule",), "compared with 'lru'")],
)
def test_policies_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, policies: tuple[str, ...], said: str
) -> None:
    python = tmp_path / "python"
    python.touch()
    monkeypatch.setenv(VARIABLE, str(python))
    with pytest.raises(InputError, match=said):
        run_bench("vllm", Size(vllm_policies=policies))


def test_without_vllm_the_command_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    code, _, said = run(capsys, "bench", "vllm")
    assert code == 2 and VARIABLE in said and "make test-vllm" in said


def fake_record() -> dict[str, Any]:
    stock = [run_figures(played(0.2)), run_figures(played(0.4))]
    ours = [run_figures(played(0.1)), run_figures(played(0.3))]
    return {
        "figures": {"admission_over_empty": 1.5},
        "measured_on": {
            "vllm": "0.32.0",
            "num_runs": 2,
            "working_set_over_pool": 2.0,
            "policies": {"lru": compared(stock, stock), "rule": compared(ours, stock)},
        },
    }


@pytest.mark.pictures
def test_the_command_writes_a_record_and_its_picture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(rlkv.bench.TALKING_BENCHES, "vllm", lambda size, say: fake_record())
    code, out, said = run(capsys, "bench", "vllm", "--out", tmp_path / "vllm.json")
    assert code == 0, said
    assert "1.25: missed" in out and "rule" in out and "75.0" in out
    record = json.loads((tmp_path / "vllm.json").read_text())
    assert (tmp_path / "vllm.png").read_bytes() == vllm_png(record)
    single = fake_record()
    for entry in single["measured_on"]["policies"].values():
        for figure in entry.values():
            figure["ci95"] = None
    assert vllm_png(single).startswith(b"\x89PNG")
