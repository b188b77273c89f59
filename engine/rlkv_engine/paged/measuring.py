"""How long iterations and copies take on this machine, measured on the engine itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rlkv_engine.estimates import fit_pause_table
from rlkv_engine.paged.arena import arena_for
from rlkv_engine.paged.clock import WallClock
from rlkv_engine.paged.copies import Copy, copy_engine
from rlkv_engine.paged.trace_player import TracePlayer
from rlkv_engine.profile import Profile
from rlkv_engine.rule import CALL_VERB, RULE_SIZE
from rlkv_engine.state import PRESERVE, SWAP
from rlkv_engine.trace import Trace

if TYPE_CHECKING:
    from rlkv_engine.paged.loading import LoadedModel

#: What tools return, by call: chunks from a few tokens to as many as an iteration takes.
_RETURNED_TOKENS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)
#: Where that is more than a context takes.
_FEW_RETURNED_TOKENS = (2, 4, 8, 16)
_LONG_TOKENS = 1000
#: Of a turn of these sessions.
_MOST_OUTPUT = 24
#: The device pool of sessions that swap, as a share of what all of them hold in the end.
_SHORT_POOL = 0.6
#: Tools take from a few iterations to so long that nothing is left in the caches.
_PAUSES_S = (2e-3, 40e-3)


@dataclass(frozen=True, slots=True)
class Load:
    """Sessions that all arrive at once, each with its prompt and output, in tokens.

    They call a tool as often as it returns something; every turn has the same output.
    """

    input_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    returned_tokens: tuple[int, ...] = ()  #: by each call
    swaps: bool = False  #: while a tool runs, the session's KV goes to the host


@dataclass(frozen=True, slots=True)
class IterationSample:
    """One iteration: what the cost model's terms were, and how long it took."""

    prefill_tokens: int
    token_contexts: float  # sum over the prefill tokens of the tokens before each
    num_decode: int
    kv_tokens: int
    took_s: float
    copied_blocks: int = 0  #: between the tiers, both ways
    woken: bool = False  #: nothing was computed in the iteration before

    @property
    def has_batch(self) -> bool:
        """Whether anything was computed; else it only copied."""
        return self.prefill_tokens > 0 or self.num_decode > 0


@dataclass(frozen=True, slots=True)
class CopySample:
    """So many blocks copied together in one direction, and how long that took."""

    out: bool
    num_blocks: int
    took_s: float


def loads(max_tokens: int, max_num_seqs: int, device_tokens: int, seed: int) -> list[Load]:
    """Loads that move the terms of the cost model apart from each other.

    Alone and in company up to ``max_num_seqs``, contexts from short to a large part of what the
    model and the pool take, outputs of different lengths so that prompts meet decoding sessions.
    Then sessions that call tools: what these return are small chunks, and copies while the others
    decode.
    """
    random = np.random.default_rng(seed)
    designed = []
    counts = sorted({1, 2, 4, 8, 16, 32, 64, max_num_seqs})
    for count in (count for count in counts if count <= max_num_seqs):
        # As in a pool that is in use: together they fit.
        longest = min(max_tokens, device_tokens // count) - 1
        for share in (0.1, 0.4, 0.9):
            length = max(8, int(share * longest))
            output = max(2, min(24, length // 4))
            lengths = random.integers(max(1, length // 2), length - output + 1, size=count)
            outputs = random.integers(2, output + 1, size=count)
            designed.append(Load(tuple(lengths.tolist()), tuple(outputs.tolist())))
        for share in (0.1, 0.5):
            returned = _RETURNED_TOKENS if longest >= _LONG_TOKENS else _FEW_RETURNED_TOKENS
            growth = sum(returned) + (len(returned) + 1) * _MOST_OUTPUT
            length = int(share * (longest - growth))
            if length < 1:
                continue
            for swaps in (False, True):
                lengths = random.integers(max(1, length // 2), length + 1, size=count)
                outputs = random.integers(2, _MOST_OUTPUT + 1, size=count)
                order = tuple(random.permutation(returned).tolist())
                designed.append(
                    Load(tuple(lengths.tolist()), tuple(outputs.tolist()), order, swaps)
                )
    random.shuffle(designed)
    return designed


def measure_iterations(
    loaded: LoadedModel, profile: Profile, load: Load, seed: int
) -> list[IterationSample]:
    """Every iteration of a load but the first on the engine; of ``profile`` the sizes matter.

    An iteration's time is all that passes until the next one begins: planning and bookkeeping are
    part of it.
    """
    trace = _trace(load)
    rule = np.zeros(RULE_SIZE)
    rule[CALL_VERB] = SWAP if load.swaps else PRESERVE
    if load.swaps:
        # What has been copied is used where it still is: a short pool makes it come back.
        blocks = -(-(trace.input_tokens + trace.output_tokens) // profile.block_size)
        together = _SHORT_POOL * blocks[trace.first_turn[1:] - 1].sum()
        num_device_blocks = min(profile.num_device_blocks, max(int(together), int(blocks.max())))
        profile = replace(profile, num_device_blocks=num_device_blocks)
    player = TracePlayer(
        loaded,
        profile,
        trace,
        rule,
        fit_pause_table(trace),
        clock=WallClock(),
        seed=seed,
    )
    try:
        # The first reads memory that nobody has touched yet.
        return list(timed_iterations(player))[1:]
    finally:
        player.close()


def timed_iterations(player: TracePlayer) -> Iterator[IterationSample]:
    """Plays a trace to its end; each iteration that computed or copied."""
    woken = False
    start_s = time.perf_counter()
    while (plan := player.step()) is not None:
        end_s = time.perf_counter()
        if plan.has_batch or plan.copied_blocks > 0:
            yield IterationSample(
                plan.prefill_tokens,
                plan.token_contexts,
                plan.num_decode,
                plan.kv_tokens,
                end_s - start_s,
                plan.copied_blocks,
                woken,
            )
        woken = not plan.has_batch
        # What a caller does with a sample is not part of the next one.
        start_s = time.perf_counter()


def _trace(load: Load) -> Trace:
    count, num_turns = len(load.input_tokens), len(load.returned_tokens) + 1
    outputs = np.array(load.output_tokens)[:, None]
    grown = np.cumsum([0, *load.returned_tokens]) + np.arange(num_turns) * outputs
    inputs = np.array(load.input_tokens)[:, None] + grown  # [count, num_turns]
    pauses_s = np.append(np.geomspace(*_PAUSES_S, num_turns - 1), np.nan)
    is_last = np.arange(num_turns) == num_turns - 1
    shared = np.where(np.arange(num_turns) > 0, np.roll(inputs, 1, axis=1) + outputs, 0)
    return Trace(
        "load",
        ("tool",),
        np.arange(count + 1) * num_turns,
        np.zeros(count),
        inputs.ravel(),
        shared.ravel(),
        np.repeat(outputs, num_turns),
        np.tile(np.where(is_last, -1, 0), count),
        np.tile(pauses_s, count),
        [str(i) for i in range(count)],
        [str(i) for i in range(count)],
    )


def measure_copies(
    loaded: LoadedModel, profile: Profile, sizes: Sequence[int], repetitions: int, seed: int
) -> Iterator[CopySample]:
    """Copies of so many blocks, alone, both ways, between blocks drawn at random."""
    arena = arena_for(loaded, profile)
    copies = copy_engine(arena)
    arena.synchronize()
    random = np.random.default_rng(seed)
    try:
        for repetition in range(repetitions + 1):
            for size in sizes:
                device = random.choice(profile.num_device_blocks, size, replace=False).tolist()
                host = random.choice(profile.num_host_blocks, size, replace=False).tolist()
                for out in (True, False):
                    start_s = time.perf_counter()
                    copies.start([Copy(0, out, range(size), device, host)])
                    copies.wait()
                    took_s = time.perf_counter() - start_s
                    if repetition > 0:  # the first touches the memory
                        yield CopySample(out, size, took_s)
    finally:
        copies.close()
