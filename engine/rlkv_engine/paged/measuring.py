"""How long iterations and copies take on this machine, measured on the engine itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rlkv_engine.estimates import fit_pause_table
from rlkv_engine.paged.arena import arena_for
from rlkv_engine.paged.clock import WallClock
from rlkv_engine.paged.copies import Copy, copy_engine
from rlkv_engine.paged.trace_player import TracePlayer
from rlkv_engine.profile import Profile
from rlkv_engine.rule import RULE_SIZE
from rlkv_engine.trace import Trace

if TYPE_CHECKING:
    from rlkv_engine.paged.loading import LoadedModel


@dataclass(frozen=True, slots=True)
class Load:
    """Sessions that all arrive at once, each with its prompt and output, in tokens."""

    input_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class IterationSample:
    """One iteration: what the cost model's terms were, and how long it took."""

    prefill_tokens: int
    token_contexts: float  # sum over the prefill tokens of the tokens before each
    num_decode: int
    kv_tokens: int
    took_s: float


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
    random.shuffle(designed)
    return designed


def measure_iterations(
    loaded: LoadedModel, profile: Profile, load: Load, seed: int
) -> list[IterationSample]:
    """Every iteration of a load on the engine; of ``profile`` the sizes matter.

    An iteration's time is all that passes until the next one begins: planning and bookkeeping are
    part of it.
    """
    count = len(load.input_tokens)
    trace = Trace(
        "load",
        (),
        np.arange(count + 1),
        np.zeros(count),
        np.array(load.input_tokens),
        np.zeros(count, np.int64),
        np.array(load.output_tokens),
        np.full(count, -1),
        np.full(count, np.nan),
        [str(i) for i in range(count)],
        [str(i) for i in range(count)],
    )
    player = TracePlayer(
        loaded,
        profile,
        trace,
        np.zeros(RULE_SIZE),
        fit_pause_table(trace),
        clock=WallClock(),
        seed=seed,
    )
    samples = []
    try:
        start_s = time.perf_counter()
        while (plan := player.step()) is not None:
            end_s = time.perf_counter()
            if plan.has_batch:
                samples.append(
                    IterationSample(
                        plan.prefill_tokens,
                        plan.token_contexts,
                        plan.num_decode,
                        plan.kv_tokens,
                        end_s - start_s,
                    )
                )
            start_s = end_s
    finally:
        player.close()
    return samples


def measure_copies(
    loaded: LoadedModel, profile: Profile, sizes: Sequence[int], repetitions: int, seed: int
) -> Iterator[CopySample]:
    """Copies of so many blocks, alone, both ways, between blocks drawn at random."""
    arena = arena_for(loaded, profile)
    copies = copy_engine(arena)
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
