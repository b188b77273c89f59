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
from rlkv_service.columns import DecisionRows
from rlkv_service.schema import Point


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
    host_room_blocks: int = 0  #: free on the host, or of sessions that are expected back later


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
    of_machine = (
        machine.block_size,
        machine.num_device_blocks,
        machine.num_host_blocks,
        machine.max_num_seqs,
        machine.prefill_token_s,
        0.0,
        machine.swap_out_block_s,
        machine.swap_in_block_s,
        F.UNKNOWN,
    )
    of_moment = (
        moment.free_blocks,
        0.0,
        moment.pending_blocks,
        moment.paused_blocks,
        moment.decoding_tokens,
        moment.host_free_blocks,
        moment.num_running,
        moment.num_queued,
        moment.num_new,
        moment.num_paused,
    )
    # In the order of facts.FACTS: by name, a row takes ten times as long as to decide about it.
    facts = [
        (
            *of_machine,
            need.point,
            *of_moment,
            need.need_blocks,
            need.short_blocks,
            need.wait_s,
            each.context_tokens,
            each.device_blocks,
            each.host_blocks,
            each.dirty_blocks,
            each.copying,
            each.turn + 1,
            each.elapsed_s,
            F.UNKNOWN,
            each.life_s,
            each.tool_wait_s,
            each.rank,
            _swap_is_legal(machine, each, need),
            F.UNKNOWN,
        )
        for each, need in zip(candidates, needs, strict=True)
    ]
    return DecisionRows(
        [each.session for each in candidates],
        np.array([each.turn for each in candidates], np.int64),
        [each.tool for each in candidates],
        np.array(facts, np.float64),
    )


def _swap_is_legal(machine: Machine, candidate: Candidate, need: Need) -> float:
    if not machine.num_host_blocks:
        return 0.0
    # At a CALL all of it is copied; else no more than what is missing.
    copied = candidate.dirty_blocks
    if need.point != Point.CALL:
        copied = min(copied, need.short_blocks)
    return float(copied <= candidate.host_room_blocks)


def with_own_estimates(
    rows: DecisionRows, candidates: Sequence[Candidate], mean_pause_s: float | None
) -> DecisionRows:
    """The same rows for the local rule, which has no predictor."""
    facts = rows.facts.copy()
    facts[:, F.REMAINING_S] = [c.remaining_s for c in candidates]
    if mean_pause_s is not None:
        facts[:, F.MEAN_PAUSE_S] = max(mean_pause_s, 1e-9)
    return DecisionRows(rows.sessions, np.asarray(rows.turns), rows.tools, facts)
