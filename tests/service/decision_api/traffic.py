"""Decisions and outcomes as two engines would send them, always the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rlkv_engine.estimates import HORIZON_PAUSES, PauseTable, mean_residual_s
from tests.service.deciding.table_estimates import TableEstimates

#: GPT-J-6B on an A100 behind an eighth of its link, where the shipped bundle has something to say.
MACHINE = {
    "block_size": 16,
    "num_device_blocks": 2983,
    "num_host_blocks": 18724,
    "max_num_seqs": 256,
    "prefill_token_s": 4.63e-5,
    "prefill_token_context_s": 1.47e-9,
    "swap_out_block_s": 0.00587,
    "swap_in_block_s": 0.00587,
    "mean_pause_s": 7.0,
}
#: Median pauses, seconds; what comes from outside may be anything.
TOOLS = {
    "search": 0.6,
    "shell": 4.0,
    "browser": 9.0,
    "python": 1.5,
    "human": 25.0,
    '<img src=x onerror="document.title=1">': 12.0,
}


def estimates() -> TableEstimates:
    """What somebody knows who has seen a thousand pauses for each tool."""
    rng = np.random.default_rng(0)
    pauses = [median_s * rng.lognormal(0.0, 0.7, 1000) for median_s in TOOLS.values()]
    rows = [np.sort(each) for each in (*pauses, np.concatenate(pauses))]
    horizon_s = HORIZON_PAUSES * float(rows[-1].mean())
    table = PauseTable(
        tools=tuple(TOOLS),
        residual_s=np.stack([mean_residual_s(row, horizon_s) for row in rows]),
        mean_s=np.array([row.mean() for row in rows]),
        quantiles_s=np.stack([np.quantile(row, np.linspace(0.0, 1.0, 101)) for row in rows]),
    )
    return TableEstimates(table)


def traffic(seed: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """A body of decisions, and one of what came of them, without end."""
    rng = np.random.default_rng(seed)
    names = list(TOOLS)
    turn = 0
    while True:
        turn += 1
        engine = f"engine-{rng.integers(2)}"
        rows, outcomes = [], []
        for rank in range(int(rng.integers(1, 12))):
            tool = names[rng.integers(len(names))]
            pause_s = float(TOOLS[tool] * rng.lognormal(0.0, 0.7))
            tokens = int(rng.integers(300, 2000))
            blocks = tokens // 16
            point = ("CALL", "NEW", "RESUME", "GROW")[rng.integers(4)]
            short = 0 if point == "CALL" else int(rng.integers(1, 100))
            rows.append(
                {
                    "session": f"chat-{rank}", "turn": turn, "tool": tool, "point": point,
                    "context_tokens": tokens, "device_blocks": blocks, "dirty_blocks": blocks,
                    "need_blocks": short, "short_blocks": short, "num_turns": turn,
                    "elapsed_s": 0.0 if point == "CALL" else pause_s / 2, "rank": rank,
                    "remaining_s": pause_s / 2, "life_s": 100.0, "tool_wait_s": 50.0,
                }
            )  # fmt: skip
            outcomes.append(
                {
                    "session": f"chat-{rank}", "turn": turn, "tool": tool, "pause_s": pause_s,
                    "context_tokens": tokens, "delay_s": float(rng.exponential(0.3)),
                }
            )  # fmt: skip
        memory = {
            "free_blocks": int(rng.integers(0, 150)),
            "paused_blocks": int(rng.integers(1200, 1800)),
            "reclaimable_blocks": int(rng.integers(0, 200)),
            "host_free_blocks": int(rng.integers(9000, 12_000)),
            "num_running": 20,
            "num_paused": 30,
        }
        yield (
            {"engine_id": engine, "machine": MACHINE, "memory": memory, "rows": rows},
            {"engine_id": engine, "outcomes": outcomes},
        )
