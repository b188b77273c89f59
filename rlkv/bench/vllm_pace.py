"""What the plug-in costs a vLLM server: the pace of decoding, and the wait of a large request."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlkv.bench.intervals import Interval, ratio_interval
from rlkv.bench.measure import Size
from rlkv.real_vllm.player import said_of
from rlkv.real_vllm.server import BLOCK_SIZE, VllmServer
from rlkv.real_vllm.traffic import FIRST_TOKEN, random_tokens
from rlkv_engine.errors import RlkvError

#: Streams that decode, and what each decodes.
_STREAMS, _STREAM_TOKENS = 4, 96
#: Pauses that begin meanwhile, one after the other: each is a question.
_PROMPT_TOKENS = 40
#: Of the pool, that paused sessions hold when a large request comes.
HELD_SHARE = 0.9
#: Between two looks at a gauge that is late, and how often, seconds.
_LOOK_EVERY_S, _LOOKS = 0.05, 100


@dataclass(slots=True)
class Decoding:
    """What decoding was like on a server."""

    took_s: list[float]  #: of each turn
    plugin_s: float = 0.0  #: of all turns, in which the scheduler was with the plug-in

    @property
    def plugin_share(self) -> float:
        """Of the time, what the scheduler was with the plug-in."""
        return self.plugin_s / sum(self.took_s)


def decode(servers: Mapping[str, VllmServer], size: Size) -> dict[str, Decoding]:
    """How long streams take to decode while pauses begin, by server, paired by turn.

    All servers take turns, in random order: what a machine does meanwhile they share.
    """
    random = np.random.default_rng(0)
    decodings = {name: Decoding([]) for name in servers}
    for turn in range(size.vllm_pace_turns + 1):
        order = list(servers)
        random.shuffle(order)
        for name in order:
            before_s = servers[name].metric("rlkv_plugin_seconds_total")
            took_s = _decode_s(servers[name], random, f"pace-{turn}")
            if turn > 0:  # the first warms up
                decodings[name].took_s.append(took_s)
                decodings[name].plugin_s += (
                    servers[name].metric("rlkv_plugin_seconds_total") - before_s
                )
    return decodings


def _decode_s(server: VllmServer, random: np.random.Generator, turn: str) -> float:
    # Streams in one request: they begin together. Pauses begin until it is over.
    prompts = [random_tokens(random, _PROMPT_TOKENS) for _ in range(_STREAMS)]
    asked = [random_tokens(random, _PROMPT_TOKENS) for _ in range(_STREAM_TOKENS)]
    done = threading.Event()

    def pause_often() -> None:
        for number, prompt in enumerate(asked):
            if done.is_set():
                return
            server.complete(prompt, 1, **said_of(f"{turn}-{number}", 0, "search"))

    thread = threading.Thread(target=pause_often)
    start_s = time.perf_counter()
    thread.start()
    try:
        server.complete_all(prompts, _STREAM_TOKENS)
        return time.perf_counter() - start_s
    finally:
        done.set()
        thread.join()


def admissions(
    server: VllmServer, num_blocks: int, max_tokens: int, size: Size
) -> tuple[float, Interval | None]:
    """Time of a large request with most of the pool preserved, over that on an empty pool.

    Args:
        server: with the plug-in, whose policy may be any.
        num_blocks: of the device pool, vLLM's own one not counted.
        max_tokens: longest context.
        size: how often.

    Raises:
        RlkvError: what has paused is not held, or is not released: the ratio would be of something
            else.
    """
    random = np.random.default_rng(1)
    held_blocks = int(HELD_SHARE * num_blocks)
    # More than what is free, and no more than fits.
    large_blocks = min(max_tokens // BLOCK_SIZE - 1, num_blocks // 2)
    session_blocks = min(max_tokens // BLOCK_SIZE - 1, 20)
    if large_blocks <= num_blocks - held_blocks:
        raise RlkvError(f"a pool of {num_blocks} blocks is too large for {max_tokens} tokens")
    full_s, empty_s = [], []
    for turn in range(size.vllm_admissions + 1):
        names = _fill(server, random, held_blocks, session_blocks, f"held-{turn}")
        wait_for_usage(server, at_least=0.9 * held_blocks / num_blocks)
        took_s = _large_s(server, random, large_blocks)
        for name in names:
            server.complete(random_tokens(random, BLOCK_SIZE), 1, **said_of(name, 1, ends=True))
        wait_for_usage(server, at_most=0.01)
        again_s = _large_s(server, random, large_blocks)
        if turn > 0:  # the first warms up
            full_s.append(took_s)
            empty_s.append(again_s)
    return ratio_interval(full_s, empty_s)


def _fill(
    server: VllmServer,
    random: np.random.Generator,
    held_blocks: int,
    session_blocks: int,
    name: str,
) -> Sequence[str]:
    # A prompt of whole blocks and one token more: what is generated adds no block.
    names: list[str] = []
    while held_blocks > 0:
        blocks = min(session_blocks, held_blocks)
        held_blocks -= blocks
        names.append(f"{name}-{len(names)}")
        said = said_of(names[-1], 0, "search", verb="preserve", lease_s=600.0)
        server.complete(random_tokens(random, blocks * BLOCK_SIZE + 1), 1, **said)
    return names


def _large_s(server: VllmServer, random: np.random.Generator, blocks: int) -> float:
    prompt = random_tokens(random, blocks * BLOCK_SIZE)
    start_s = time.perf_counter()
    server.complete(prompt, 1, **said_of("large", 0, ends=True))
    return time.perf_counter() - start_s


def wait_for_usage(server: VllmServer, *, at_least: float = 0.0, at_most: float = 1.0) -> None:
    """Returns when the share of the pool that is in use is between two bounds.

    Raises:
        RlkvError: it does not come there.
    """
    usage = -1.0
    for _ in range(_LOOKS):
        server.complete([FIRST_TOKEN], 1)  # an idle engine neither applies nor reports anything
        usage = server.metric("vllm:kv_cache_usage_perc")
        if at_least <= usage <= at_most:
            return
        time.sleep(_LOOK_EVERY_S)
    raise RlkvError(f"{usage:.3f} of the pool is in use, not {at_least:.3f} to {at_most:.3f}")
