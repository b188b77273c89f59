"""The facts of a decision: what an engine knows of a pause, its memory and its costs at a moment.

A decision is a row of ``NUM_FACTS`` numbers in the units of ``FACTS``. The compiled loop fills it
from its own state (observe.py), an engine of somebody else from wherever it keeps its books; the
features that a policy reads are a function of these facts alone. Needs NumPy and nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

#: What is not known: the reader's own estimate takes its place where there is one.
UNKNOWN = float("nan")


class Fact(NamedTuple):
    """One number of a decision."""

    name: str
    unit: str
    meaning: str
    #: Whether a reader can do without: None, it cannot; else what stands for it.
    default: float | None = None


#: The machine and its model: the same in every decision of an engine.
MACHINE_FACTS = (
    Fact("block_size", "tokens", "tokens of a block"),
    Fact("num_device_blocks", "blocks", "device pool"),
    Fact("num_host_blocks", "blocks", "host pool, 0 without one"),
    Fact("max_num_seqs", "sessions", "most sessions in a batch"),
    Fact("prefill_token_s", "s/token", "computing a token of a prompt"),
    Fact("prefill_token_context_s", "s/token²", "the same, for each token before it", 0.0),
    Fact("swap_out_block_s", "s/block", "copying a block to the host", 0.0),
    Fact("swap_in_block_s", "s/block", "copying a block to the device", 0.0),
    Fact("mean_pause_s", "s", "mean pause of this workload", UNKNOWN),
)
#: The moment: the same for all candidates of an offer, as they were when it opened.
OFFER_FACTS = (
    Fact("point", "", "0 CALL; a REVISIT for 1 a NEW, 2 a RESUME, 3 a DECODE that grows"),
    Fact("free_blocks", "blocks", "device blocks that nobody has"),
    Fact("reclaimable_blocks", "blocks", "discarded device blocks, not overwritten yet", 0.0),
    Fact("pending_blocks", "blocks", "device blocks that are being swapped out", 0.0),
    Fact("paused_blocks", "blocks", "device blocks held firmly by paused sessions", 0.0),
    Fact("decoding_tokens", "tokens", "KV of decoding sessions", 0.0),
    Fact("host_free_blocks", "blocks", "host blocks that nobody has", 0.0),
    Fact("num_running", "sessions", "in prefill or decode", 0.0),
    Fact("num_queued", "sessions", "back from a tool, waiting for memory", 0.0),
    Fact("num_new", "sessions", "arrived, never admitted yet", 0.0),
    Fact("num_paused", "sessions", "paused", 1.0),
    Fact("need_blocks", "blocks", "what the requester needs; 0 at a CALL", 0.0),
    Fact("short_blocks", "blocks", "what of it is missing, with slack; 0 at a CALL", 0.0),
    Fact("wait_s", "s", "how long the requester has waited", 0.0),
)
#: The paused session in question.
CANDIDATE_FACTS = (
    Fact("context_tokens", "tokens", "its context"),
    Fact("device_blocks", "blocks", "device blocks it holds firmly", UNKNOWN),
    Fact("host_blocks", "blocks", "blocks of it that the host holds", 0.0),
    Fact("dirty_blocks", "blocks", "firm device blocks that the host does not hold", UNKNOWN),
    Fact("copying", "", "1 while it is written through", 0.0),
    Fact("num_turns", "turns", "turns so far, with this one", 1.0),
    Fact("elapsed_s", "s", "since the pause began", 0.0),
    Fact("remaining_s", "s", "expected remaining pause", UNKNOWN),
    Fact("life_s", "s", "since the session arrived", UNKNOWN),
    Fact("tool_wait_s", "s", "of which it waited for tools", UNKNOWN),
    Fact("rank", "", "candidates of the offer before it", 0.0),
    Fact("swap_is_legal", "", "1 if the host has room for it", UNKNOWN),
    Fact("rule_verb", "", "what the engine's own rule says: 0, 1 or 2", UNKNOWN),
)
FACTS = MACHINE_FACTS + OFFER_FACTS + CANDIDATE_FACTS
NUM_FACTS = len(FACTS)

# Their places in a row.
(
    BLOCK_SIZE,
    NUM_DEVICE_BLOCKS,
    NUM_HOST_BLOCKS,
    MAX_NUM_SEQS,
    PREFILL_TOKEN_S,
    PREFILL_TOKEN_CONTEXT_S,
    SWAP_OUT_BLOCK_S,
    SWAP_IN_BLOCK_S,
    MEAN_PAUSE_S,
    POINT,
    FREE_BLOCKS,
    RECLAIMABLE_BLOCKS,
    PENDING_BLOCKS,
    PAUSED_BLOCKS,
    DECODING_TOKENS,
    HOST_FREE_BLOCKS,
    NUM_RUNNING,
    NUM_QUEUED,
    NUM_NEW,
    NUM_PAUSED,
    NEED_BLOCKS,
    SHORT_BLOCKS,
    WAIT_S,
    CONTEXT_TOKENS,
    DEVICE_BLOCKS,
    HOST_BLOCKS,
    DIRTY_BLOCKS,
    COPYING,
    NUM_TURNS,
    ELAPSED_S,
    REMAINING_S,
    LIFE_S,
    TOOL_WAIT_S,
    RANK,
    SWAP_IS_LEGAL,
    RULE_VERB,
) = range(NUM_FACTS)
