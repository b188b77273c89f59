"""What InferCept published, measured on our scheduler: which shapes come out, which do not.

``docs/validation.md`` tells the reasons. Nothing here is fitted: the machines are shipped profiles,
the systems are switches of the engine, and the tolerance is the same for every shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlkv.infercept_runs import (
    CHUNKED_DISCARD,
    IMPROVED_DISCARD,
    INFERCEPT,
    PRESERVE,
    SWAP,
    SWAP_WITH_COPIES,
    VLLM,
    Server,
    WindowResult,
    rate_at_latency,
    saturated_run,
    sessions_of,
    window_run,
)
from rlkv.infercept_shapes import SHAPES, TOLERANCE
from rlkv.provenance import command, commit, machine
from rlkv_engine.errors import IntegrityError
from rlkv_engine.profile import Profile, load_profile

PROFILES = ("gptj-6b-a100", "gptj-6b-a100-40gb")


@dataclass(frozen=True, slots=True)
class ValidationConfig:
    """How long the runs are."""

    profiles: Sequence[str] = PROFILES
    num_finished: int = 300  #: sessions whose end stops a saturated run
    backlog: int = 1000  #: sessions of the runs that stop before the last has ended
    #: Device pools around those of the profiles, for the pause where discard overtakes preserve.
    pools_blocks: Sequence[int] = (3000, 4000, 5000, 6000, 7000, 8000)
    chat_pauses_s: Sequence[float] = (1.0, 3.02, 4.92, 10.02, 15.01, 30.0)
    rates_per_s: Sequence[float] = tuple(0.5 * step for step in range(2, 17))
    levels_s: Sequence[float] = (0.02, 0.03, 0.05, 0.1, 0.2)
    window_s: float = 1800.0
    seeds: Sequence[int] = (0, 1)


def validate(
    config: ValidationConfig | None = None, on_run: Callable[[str], None] = lambda what: None
) -> dict[str, Any]:
    """Every experiment on every profile, and the verdict on every shape."""
    config = config or ValidationConfig()
    figures: dict[str, Any] = {}
    for name in config.profiles:
        profile = load_profile(name)
        figures[name] = {
            "ve_file": _throughputs(profile, config, "ve", on_run=on_run),
            "ve_table_1": _throughputs(profile, config, "ve", published=True, on_run=on_run),
            "chat": _chats(profile, config, config.num_finished, on_run),
            "chat_backlog": _chats(profile, config, config.backlog, on_run),
            "mixture": _mixture(profile, config, on_run),
        }
    shapes = []
    for shape in SHAPES:
        ours = {name: shape.figure(figures[name]) for name in config.profiles}
        shapes.append(
            {
                "shape": shape.name,
                "published": shape.published,
                "ours": {name: _finite(value) for name, value in ours.items()},
                "verdict": {name: shape.verdict(value) for name, value in ours.items()},
            }
        )
    return {
        "validation": "infercept",
        "tolerance": TOLERANCE,
        "shapes": shapes,
        "figures": figures,
        "chat_backlog_by_pool": _chats_by_pool(config, on_run),
        "commit": commit(),
        "command": command(),
        "machine": machine(),
    }


def _throughputs(
    profile: Profile,
    config: ValidationConfig,
    kind: str,
    *,
    num_sessions: int | None = None,
    pause_s: float | None = None,
    published: bool = False,
    on_run: Callable[[str], None],
) -> dict[str, float | None]:
    """Tokens/s of the four systems on sessions of one kind, and their ratios."""
    trace = sessions_of(
        kind, num_sessions or config.num_finished, pause_s=pause_s, published_calls=published
    )
    servers = {
        "discard": VLLM,
        "improved_discard": IMPROVED_DISCARD,
        "preserve": PRESERVE,
        "swap": SWAP,
        "swap_with_copies": SWAP_WITH_COPIES,
    }
    found: dict[str, float | None] = {}
    for name, server in servers.items():
        tokens_per_s: float | None
        try:
            tokens_per_s, recompute = saturated_run(profile, server, trace, config.num_finished)
            found[f"{name}_recompute_time_ratio"] = recompute
        except IntegrityError:
            # The engine says itself that it cannot go on: no figure rather than a wrong one.
            tokens_per_s = None
        found[f"{name}_tokens_per_s"] = tokens_per_s
        on_run(f"{profile.name}: {server.name}")
    for name in ("improved_discard", "preserve", "swap", "swap_with_copies"):
        found[f"{name}_over_discard"] = _ratio(found, name, "discard")
    found["preserve_over_improved_discard"] = _ratio(found, "preserve", "improved_discard")
    return found


def _ratio(found: dict[str, float | None], name: str, base: str) -> float | None:
    above, below = found[f"{name}_tokens_per_s"], found[f"{base}_tokens_per_s"]
    return None if above is None or below is None else above / below


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _chats(
    profile: Profile, config: ValidationConfig, num_sessions: int, on_run: Callable[[str], None]
) -> dict[str, dict[str, float | None]]:
    return {
        str(pause_s): _throughputs(
            profile, config, "chatbot/human",
            num_sessions=num_sessions, pause_s=pause_s, on_run=on_run,
        )
        for pause_s in config.chat_pauses_s
    }  # fmt: skip


def _chats_by_pool(
    config: ValidationConfig, on_run: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Preserve / ImprovedDiscard under a backlog, by device blocks and pause."""
    base = load_profile(config.profiles[0])
    found: dict[str, dict[str, float]] = {str(blocks): {} for blocks in config.pools_blocks}
    for pause_s in config.chat_pauses_s:
        trace = sessions_of("chatbot/human", config.backlog, pause_s=pause_s)
        for blocks in config.pools_blocks:
            profile = replace(base, num_device_blocks=blocks)
            ours, theirs = (
                saturated_run(profile, server, trace, config.num_finished)[0]
                for server in (PRESERVE, IMPROVED_DISCARD)
            )
            found[str(blocks)][str(pause_s)] = ours / theirs
            on_run(f"{blocks} blocks, pauses of {pause_s:g} s")
    return found


def _mixture(
    profile: Profile, config: ValidationConfig, on_run: Callable[[str], None]
) -> dict[str, Any]:
    """Curves over the rate, rates at equal latency, and what happens at vLLM's knee."""
    rates = np.array(config.rates_per_s)
    curves = {
        server.name: [
            _mean_window(profile, server, rate, config, on_run) for rate in config.rates_per_s
        ]
        for server in (VLLM, IMPROVED_DISCARD, CHUNKED_DISCARD, INFERCEPT, PRESERVE, SWAP)
    }
    latency = {
        name: np.array([point["normalized_latency_s"] for point in points])
        for name, points in curves.items()
    }
    at_equal_latency = {}
    for level_s in config.levels_s:
        base, ours, improved = (
            rate_at_latency(rates, latency[server.name], level_s)
            for server in (VLLM, INFERCEPT, IMPROVED_DISCARD)
        )
        if not math.isnan(base) and not math.isnan(ours):
            at_equal_latency[str(level_s)] = {
                "vllm_rate_per_s": base,
                "rate_ratio": ours / base,
                "improved_discard_rate_ratio": improved / base,
            }
    # The knee: the highest rate at which vLLM's discard stays below twice its lowest latency.
    knee = int(np.flatnonzero(latency[VLLM.name] <= 2 * latency[VLLM.name][0])[-1])
    past = min(knee + 2, len(rates) - 1)
    improved_ratio = latency[IMPROVED_DISCARD.name] / latency[VLLM.name]
    ratios = [entry["rate_ratio"] for entry in at_equal_latency.values()]
    return {
        "rates_per_s": list(config.rates_per_s),
        "curves": curves,
        "at_equal_latency": at_equal_latency,
        "knee_rate_per_s": float(rates[knee]),
        "recompute_time_ratio_at_knee": curves[VLLM.name][knee]["recompute_time_ratio"],
        "recompute_time_ratio_in_overload": curves[VLLM.name][-1]["recompute_time_ratio"],
        "improved_over_vllm_past_knee": float(improved_ratio[past]),
    } | ({"rate_ratio_median": float(np.median(ratios))} if ratios else {})


def _mean_window(
    profile: Profile,
    server: Server,
    rate_per_s: float,
    config: ValidationConfig,
    on_run: Callable[[str], None],
) -> dict[str, float]:
    results = []
    for seed in config.seeds:
        results.append(window_run(profile, server, rate_per_s, seed=seed, window_s=config.window_s))
        on_run(f"{profile.name}: {server.name} at {rate_per_s:g}/s")
    names = WindowResult.__dataclass_fields__
    return {name: float(np.mean([getattr(r, name) for r in results])) for name in names}
