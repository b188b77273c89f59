"""What a real engine's loop pays for asking: with a live sidecar, a stopped one, a dead one."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rlkv.bench.measure import Size
from rlkv.engine_setup import build_engine, load
from rlkv.sidecar_process import SidecarProcess
from rlkv_service.client import EngineClient
from rlkv_service.columns import DecisionRows

NUM_STREAMS = 8
#: Iterations between two questions about the same sessions, of an engine that asks ahead.
EVERY = 16
#: Iterations in a row before somebody else's turn comes.
_IN_A_ROW = 20
_PROMPT_TOKENS = 64


def engine_paces(url: str, rows: DecisionRows, size: Size) -> dict[str, float]:
    """Cost of asking in one iteration, and paces of the loop over its pace without a client.

    The loop is the real engine on ``tiny``, eight streams that decode. In every iteration (or, as
    an engine that asks ahead, in every ``EVERY``th) it asks for ``rows`` and collects what has
    come; the ways take turns. The stopped sidecar is one that SIGSTOP stopped; of the dead one
    there is not even a socket.
    """
    with (
        SidecarProcess() as stopped,
        tempfile.TemporaryDirectory(prefix="rlkv-") as nothing,
        EngineClient(url, engine_id="pace-alive") as alive,
        EngineClient(stopped.url, engine_id="pace-stopped") as asks_stopped,
        EngineClient(f"unix://{Path(nothing) / 'valkey.sock'}", engine_id="pace-dead") as asks_dead,
    ):
        stopped.suspend()
        asks_s: list[float] = []

        def asking(client: EngineClient) -> Callable[[], None]:
            def ask() -> None:
                start_s = time.perf_counter()
                client.ask(rows, None)
                client.collect()
                if client is alive:
                    asks_s.append(time.perf_counter() - start_s)

            return ask

        def now_and_then() -> Callable[[], None]:
            ask, iterations = asking(alive), itertools.count()

            def ask_sometimes() -> None:
                if next(iterations) % EVERY == 0:
                    ask()

            return ask_sometimes

        ways: dict[str, Callable[[], None]] = {
            "none": lambda: None,
            "alive": asking(alive),
            f"alive_every_{EVERY}": now_and_then(),
            "stopped": asking(asks_stopped),
            "dead": asking(asks_dead),
        }
        took_s = _blocks_s(ways, size.pace_rounds)
        answered = alive.counts.answered
    paces = {
        f"pace_{way}_over_none": statistics.median(
            none_s / own_s for none_s, own_s in zip(took_s["none"], took_s[way], strict=True)
        )
        for way in ways
        if way != "none"
    }
    return {
        "ask_us": 1e6 * statistics.median(asks_s),
        "asked_and_answered_ratio": answered / (len(rows) * len(asks_s)),
        "pace_iteration_ms": 1e3 * statistics.median(took_s["none"]) / _IN_A_ROW,
        **paces,
    }


def _blocks_s(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """How long so many iterations take, by way; every time with the same contexts."""
    loaded = load("tiny")
    engine = build_engine(loaded)
    prompt = list(range(_PROMPT_TOKENS))
    took_s: dict[str, list[float]] = {way: [] for way in ways}
    random = np.random.default_rng(0)
    try:
        for round_index in range(rounds + 1):
            # Each way follows each other one as often: what they leave behind takes turns too.
            order = list(ways.items())
            random.shuffle(order)
            for way, ask in order:
                streams = [
                    engine.add_session(prompt, max_new_tokens=2 * _IN_A_ROW)
                    for _ in range(NUM_STREAMS)
                ]
                while len(engine.step()) < NUM_STREAMS:
                    pass  # prompts
                start_s = time.perf_counter()
                for _ in range(_IN_A_ROW):
                    ask()
                    engine.step()
                if round_index > 0:  # the first one warms up
                    took_s[way].append(time.perf_counter() - start_s)
                for stream in streams:
                    engine.cancel(stream)
    finally:
        engine.close()
    return took_s
