"""Rows of facts, from what the plug-in knows of vLLM.

What differs from an engine of ours: ``free_blocks`` are all without a reference, with or without
KV that a prefix cache would find; ``reclaimable_blocks`` is 0, because what was discarded is among
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlkv_engine import facts as F
from rlkv_service.client.rows import decision_rows
from rlkv_service.columns import DecisionRows


@dataclass(frozen=True, slots=True)
class Machine:
    """The engine and its model."""

    block_size: int  #: tokens
    num_device_blocks: int
    num_host_blocks: int
    max_num_seqs: int
    prefill_token_s: float
    swap_out_block_s: float
    swap_in_block_s: float


@dataclass(frozen=True, slots=True)
class Moment:
    """The engine as it is now; blocks, tokens, sessions."""

    free_blocks: int
    pending_blocks: int
    paused_blocks: int
    decoding_tokens: int
    host_free_blocks: int
    num_running: int
    num_queued: int
    num_new: int
    num_paused: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A paused session."""

    session: str
    turn: int
    tool: str
    context_tokens: int
    device_blocks: int
    host_blocks: int
    dirty_blocks: int
    copying: bool
    elapsed_s: float
    life_s: float
    tool_wait_s: float
    remaining_s: float  #: this engine's own estimate
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Need:
    """For whom memory is short; at a CALL for nobody."""

    point: int
    need_blocks: int = 0
    short_blocks: int = 0
    wait_s: float = 0.0


def fact_rows(
    machine: Machine, moment: Moment, candidates: Sequence[Candidate], needs: Sequence[Need]
) -> DecisionRows:
    """A row for each candidate and the need at the same place; pauses are left to the decider."""
    pairs = list(zip(candidates, needs, strict=True))
    return decision_rows(
        [c.session for c in candidates],
        [c.turn for c in candidates],
        [c.tool for c in candidates],
        block_size=machine.block_size,
        num_device_blocks=machine.num_device_blocks,
        num_host_blocks=machine.num_host_blocks,
        max_num_seqs=machine.max_num_seqs,
        prefill_token_s=machine.prefill_token_s,
        swap_out_block_s=machine.swap_out_block_s,
        swap_in_block_s=machine.swap_in_block_s,
        point=[need.point for _, need in pairs],
        free_blocks=moment.free_blocks,
        pending_blocks=moment.pending_blocks,
        paused_blocks=moment.paused_blocks,
        decoding_tokens=moment.decoding_tokens,
        host_free_blocks=moment.host_free_blocks,
        num_running=moment.num_running,
        num_queued=moment.num_queued,
        num_new=moment.num_new,
        num_paused=moment.num_paused,
        need_blocks=[need.need_blocks for _, need in pairs],
        short_blocks=[need.short_blocks for _, need in pairs],
        wait_s=[need.wait_s for _, need in pairs],
        context_tokens=[c.context_tokens for c in candidates],
        device_blocks=[c.device_blocks for c in candidates],
        host_blocks=[c.host_blocks for c in candidates],
        dirty_blocks=[c.dirty_blocks for c in candidates],
        copying=[float(c.copying) for c in candidates],
        num_turns=[c.turn + 1 for c in candidates],
        elapsed_s=[c.elapsed_s for c in candidates],
        life_s=[c.life_s for c in candidates],
        tool_wait_s=[c.tool_wait_s for c in candidates],
        rank=[c.rank for c in candidates],
    )


def with_own_estimates(
    rows: DecisionRows, candidates: Sequence[Candidate], mean_pause_s: float | None
) -> DecisionRows:
    """The same rows for the local rule, which has no predictor."""
    facts = rows.facts.copy()
    facts[:, F.REMAINING_S] = [c.remaining_s for c in candidates]
    if mean_pause_s is not None:
        facts[:, F.MEAN_PAUSE_S] = max(mean_pause_s, 1e-9)
    return DecisionRows(rows.sessions, np.asarray(rows.turns), rows.tools, facts)
