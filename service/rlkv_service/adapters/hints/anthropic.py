"""Anthropic's Messages API, and servers that speak it: how long a prompt's cache lives.

Read in the SDK anthropic 2.14.0: ``types/message_create_params.py`` (the ``cache_control`` of a
whole request marks its last block) and ``types/cache_control_ephemeral_param.py`` ("5m" or "1h").
"""

from __future__ import annotations

from rlkv_service.adapters.hints.hints import Hints
from rlkv_service.adapters.hints.pause import Pause, Served
from rlkv_service.schema import Verb

_FIVE_MINUTES_S, _HOUR_S = 300.0, 3600.0


def anthropic(pause: Pause, _: Served) -> Hints:
    """``cache_control``, for an hour where more than one in ten pauses takes over five minutes.

    A DISCARD asks for no cache: writing it costs more than plain input. A client that marks blocks
    itself knows what it does, and the API refuses a short time before a long one: then nothing is
    added.
    """
    verdict = pause.verdict
    if verdict is None or pause.ends:
        return Hints()
    if verdict.verb is Verb.DISCARD:
        return Hints(lost=("DISCARD: what is in the cache stays until its time is over.",))
    late = verdict.expected_return_p90_s > _FIVE_MINUTES_S
    # For one that is gone for more than an hour neither is of use, and the short one costs less.
    ttl = "1h" if late and not verdict.expected_return_p50_s > _HOUR_S else "5m"
    lost = ["lease_s, soft_priority: five minutes or an hour, no other time, and no order."]
    if verdict.verb is Verb.SWAP:
        lost.append("SWAP: where the cache lies is not for clients to say.")
    return Hints(
        fields={"cache_control": {"type": "ephemeral", "ttl": ttl}},
        ruled_out_within={"cache_control": ("messages", "system", "tools")},
        lost=tuple(lost),
    )
