"""vLLM: fields of an OpenAI request for the plug-in, and for the stock offloading tier.

Read in vLLM 0.32.0: ``entrypoints/openai/chat_completion/protocol.py`` (``session_id`` and
``kv_transfer_params``; the same in ``completion/`` and ``responses/``),
``entrypoints/generate/base/serving.py`` (``_get_session_id``: the field goes before the header),
``distributed/kv_transfer/kv_connector/v1/offloading/scheduler.py`` (``RequestOffloadState``).
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from rlkv_service.adapters.hints.hints import Hints
from rlkv_service.adapters.hints.pause import Pause, Served
from rlkv_service.schema import Verb


def plug_in(pause: Pause, _: Served) -> Hints:
    """For a vLLM that runs rlkv's connector: everything but the expected return.

    ``kv_transfer_params["rlkv"]`` is ours; vLLM carries it to the connector unread. Without a
    verdict the connector asks for one itself.
    """
    said: dict[str, Any] = {"session": pause.session}
    if pause.turn is not None:
        said["turn"] = pause.turn
    if pause.tool:
        said["tool"] = pause.tool
    if pause.ends:
        said["ends"] = True
    elif pause.verdict is not None:
        said["verb"] = pause.verdict.verb.name.lower()
        if pause.verdict.verb is Verb.PRESERVE and isfinite(pause.verdict.lease_s):
            said["lease_s"] = pause.verdict.lease_s
    return Hints(fields={"session_id": pause.session, "kv_transfer_params": {"rlkv": said}})


def stock_offloading(pause: Pause, _: Served) -> Hints:
    """For a stock vLLM with ``OffloadingConnector``: whether the host gets a copy, and no more.

    ``max_offload_tokens`` (experimental in 0.32.0) is a non-negative integer, 0 for no copy. Copies
    are made while the request runs, so this is the verdict that was expected when it was sent.
    """
    fields: dict[str, Any] = {"session_id": pause.session}
    verdict = pause.verdict
    if pause.ends or (verdict is not None and verdict.verb is Verb.DISCARD):
        lost = ["DISCARD: the device keeps the blocks until LRU takes them."]
        fields["kv_transfer_params"] = {"max_offload_tokens": 0}
    elif verdict is None:
        lost = []
    elif verdict.verb is Verb.SWAP:
        lost = ["SWAP: the copy is made, the device keeps the blocks until LRU takes them."]
    else:
        lost = [
            "PRESERVE: the device keeps the blocks until LRU takes them, then the host has them.",
            "lease_s: no time limit.",
        ]
    return Hints(fields=fields, lost=tuple(lost))
