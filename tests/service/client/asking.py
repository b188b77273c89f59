"""Rows whose sessions are numbered, and waiting for what must come."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from rlkv_service.client import DecisionRows, Outcome, Reason, VerdictRows, decision_rows
from tests.service.client.answering import VERSION


def rows_about(first: int, num: int = 1) -> DecisionRows:
    """Rows of the sessions ``s{first}`` and following."""
    numbers = np.arange(first, first + num)
    return decision_rows(
        [f"s{i}" for i in numbers],
        numbers % 7,
        ["search"] * num,
        block_size=16,
        num_device_blocks=1000,
        num_host_blocks=2000,
        max_num_seqs=32,
        prefill_token_s=1e-4,
        swap_out_block_s=1e-3,
        swap_in_block_s=1e-3,
        mean_pause_s=3.0,
        point=1,
        free_blocks=4,
        host_free_blocks=100,
        short_blocks=3,
        context_tokens=100.0 + numbers,
        elapsed_s=0.5,
        remaining_s=1.0 + numbers % 5,
        swap_is_legal=1,
    )


def outcome(session: str, turn: int = 0, engine_id: str = "engine") -> Outcome:
    return Outcome(1, engine_id, session, turn, "search", 1.5, 100)


def check_rows_match(rows: DecisionRows, verdicts: VerdictRows) -> None:
    """Each answered row has the lease that its session's number asks for."""
    assert len(verdicts) == len(rows)
    answered = verdicts.reason < Reason.LATE
    numbers = np.array([int(session[1:]) for session in rows.sessions], np.float32)
    assert (verdicts.lease_s[answered] == numbers[answered]).all()
    assert (verdicts.fallback_used[~answered] == 1).all()
    if answered.any():
        assert verdicts.policy_version == VERSION


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"in vain: {what}"
        time.sleep(0.002)
