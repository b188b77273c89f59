"""Decisions and outcomes as two engines would send them, always the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rlkv_service.decision_api.examples import OFFER

#: Median pauses, seconds; what comes from outside may be anything.
TOOLS = {
    "search": 1.4,
    "shell": 9.0,
    "browser": 22.0,
    "python": 3.5,
    "human": 240.0,
    '<img src=x onerror="document.title=1">': 61.0,
}


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
            tokens = int(rng.integers(500, 30_000))
            blocks = tokens // 16
            point = ("CALL", "NEW", "RESUME", "GROW")[rng.integers(4)]
            short = 0 if point == "CALL" else int(rng.integers(1, 400))
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
            "free_blocks": int(rng.integers(0, 4000)),
            "paused_blocks": int(rng.integers(8000, 15_000)),
            "reclaimable_blocks": int(rng.integers(0, 3000)),
            "host_free_blocks": int(rng.integers(20_000, 54_000)),
            "num_running": 48,
            "num_paused": 30,
        }
        machine = OFFER["machine"]
        yield (
            {"engine_id": engine, "machine": machine, "memory": memory, "rows": rows},
            {"engine_id": engine, "outcomes": outcomes},
        )
