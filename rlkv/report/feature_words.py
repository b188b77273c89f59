"""Features in words: what a threshold of a tree asks, in the units of the machine at hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from rlkv.report.findings import digits, seconds


@dataclass(frozen=True, slots=True)
class Units:
    """What turns shares and mean pauses back into tokens and seconds."""

    device_tokens: int
    mean_pause_s: float


#: A threshold in words.
Say = Callable[[float, Units], str]


def _pool(share: float, units: Units) -> str:
    return f"{100 * share:.3g} % of the pool ({_count(share * units.device_tokens)} tokens)"


def _percent(share: float, _: Units) -> str:
    return f"{100 * share:.3g} %"


def _pauses(share: float, units: Units) -> str:
    pauses = odds(share)
    return f"{digits(pauses)} mean pauses ({seconds(pauses * units.mean_pause_s)} here)"


def _within_s(step_s: float) -> Say:
    return lambda share, _: seconds(step_s * odds(share))


def _fold(factor: float) -> Say:
    return lambda share, _: f"{digits(factor * odds(share))}x"


def _sessions(scale: float) -> Say:
    return lambda value, _: _whole(math.expm1(scale * value))


def _whole(value: float) -> str:
    return _count(math.floor(value) if math.isfinite(value) else value)


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def odds(share: float) -> float:
    """``r`` of ``r / (r + 1)``."""
    return share / (1.0 - share) if share < 1.0 else math.inf


#: Feature -> what is compared, and its threshold in words.
_WORDS: dict[str, tuple[str, Say]] = {
    "free": ("free device memory", _pool),
    "reclaimable": ("reclaimable device memory", _pool),
    "pending": ("device memory being copied out", _pool),
    "paused_firm": ("device memory held by paused sessions", _pool),
    "decoding": ("device memory of decoding sessions", _pool),
    "host_free": ("free share of the host memory", _percent),
    "host_size": ("host memory over device memory", _fold(1.0)),
    "running": ("running sessions, of those that may run", _percent),
    "queued": ("returned sessions that wait for memory", _sessions(4.0)),
    "new_waiting": ("new sessions that wait", _sessions(4.0)),
    "paused": ("paused sessions", _sessions(4.0)),
    "need": ("what the requester needs", _pool),
    "short": ("what is missing", _pool),
    "wait_pauses": ("the requester's wait so far", _pauses),
    "wait_recompute": ("its wait over the time to compute what it needs", _fold(1.0)),
    "waited_1s": ("the requester's wait so far", _within_s(1.0)),
    "link_speed": ("copying a block over recomputing it", lambda v, _: f"{digits(10.0**v)}x"),
    "context": ("the candidate's context", _pool),
    "on_device": ("its context on the device", _percent),
    "on_host": ("its context on the host", _percent),
    "dirty": ("what of it is on the device only", _pool),
    "turn": ("its turns so far", _sessions(3.0)),
    "elapsed_pauses": ("its pause so far", _pauses),
    "elapsed": ("its pause so far", lambda v, _: seconds(math.expm1(5.0 * v))),
    "remaining_pauses": ("its expected remaining pause", _pauses),
    "link_over_recompute": (
        "copying its context over recomputing it", lambda v, _: f"{digits(10.0**v)}x",
    ),
    "recompute_pauses": ("the time to recompute it", _pauses),
    "remaining_recompute": ("its expected remaining pause over recomputing it", _fold(10.0)),
    "idleness": ("the share of its life spent in tools", _percent),
    "rank": ("candidates asked before it", lambda v, _: _whole(4.0 * odds(v))),
}  # fmt: skip
#: Features that are 0 or 1: what is so at 0.
_UNLESS = {
    "point_call": "no call begins",
    "point_new": "it is not for a new session",
    "point_resume": "it is not for a returning session",
    "point_grow": "it is not for a decoding session",
    "copying": "it is not being copied out",
    "rule_preserve": "the rule does not say preserve",
    "rule_swap": "the rule does not say swap",
    "rule_discard": "the rule does not say discard",
}


def question(feature: str, threshold: float, units: Units) -> str:
    """What holds where the feature is at most the threshold, in words."""
    if feature in _UNLESS:
        return _UNLESS[feature]
    if feature.startswith("remaining_") and feature.endswith("s") and feature[10:-1][:1].isdigit():
        step_s = float(feature[10:-1])
        return f"its expected remaining pause <= {_within_s(step_s)(threshold, units)}"
    subject, say = _WORDS[feature]
    return f"{subject} <= {say(threshold, units)}"
