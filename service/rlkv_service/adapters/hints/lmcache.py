"""LMCache beside vLLM: whether it keeps a copy, and calls to its coordinator.

Read in LMCache 0.5.6: ``integration/vllm/vllm_v1_adapter.py`` (``lmcache.skip_save``),
``integration/vllm/lmcache_mp_metadata.py`` (``lmcache.max_offload_tokens``),
``v1/mp_coordinator/schemas.py``, ``http_apis/cache_api.py`` (``/cache/prefetches``,
``/cache/delete``) and ``controllers/eviction_http_api.py`` (``/cache/pins``).
LMCache never steers blocks of the device.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from rlkv_service.adapters.hints.hints import Call, Hints, OnReturn
from rlkv_service.adapters.hints.pause import Pause, Served
from rlkv_service.schema import Verb

#: How long a pin lives where nobody knows when the session is back, seconds.
_PIN_S = 300.0


def lmcache(pause: Pause, served: Served) -> Hints:
    """A DISCARD keeps no copy, a SWAP has its copy fetched near before the session is back.

    The fields are vLLM's, and LMCache reads them while the request runs: one for LMCache inside
    the engine's process, one for its server. The calls go to the coordinator, and need the tokens,
    the model and the name of the node. Pins, of the second tier, have no end: they are made only if
    ``served`` asks for them, and taken back when the session returns or is overdue.
    """
    verdict = pause.verdict
    session = {"session_id": pause.session}
    if pause.ends or (verdict is not None and verdict.verb is Verb.DISCARD):
        kept = pause.shared_tokens or 0
        params = {"lmcache.skip_save": True, "lmcache.max_offload_tokens": kept}
        fields = session | {"kv_transfer_params": params}
        calls, lost = _deleted(pause, served)
        return Hints(fields=fields, calls=calls, lost=lost)
    if verdict is None:
        return Hints(fields=session)
    if verdict.verb is Verb.PRESERVE:
        return Hints(
            fields=session, lost=("PRESERVE: LMCache does not steer blocks of the device.",)
        )
    device = "SWAP: the engine keeps the device's blocks until LRU takes them."
    if not _is_known(pause, served):
        return Hints(fields=session, lost=(device, _UNKNOWN))
    calls = _pinned(pause, served) if served.pins else ()
    if isfinite(verdict.expected_return_p50_s):
        calls += (
            Call(
                method="POST",
                path="/cache/prefetches",
                server="lmcache",
                body=_content(pause, served) | {"instance_id": served.instance_id},
                # How long it takes nobody knows: half of the way leaves time and saves memory.
                after_s=max(verdict.expected_return_p50_s, 0.0) / 2.0,
            ),
        )
    return Hints(fields=session, calls=calls, lost=(device,))


_UNKNOWN = "Calls to LMCache: they need the tokens, the model and the name of the node."
_SHARED = "DISCARD of copies made before: a delete would take what other sessions share."


def _deleted(pause: Pause, served: Served) -> tuple[tuple[Call, ...], tuple[str, ...]]:
    device = "DISCARD: the engine keeps the device's blocks until LRU takes them."
    # A delete has no start: it is right only where nothing is shared.
    if pause.shared_tokens != 0:
        return (), (device, _SHARED)
    if not _is_known(pause, served):
        return (), (device, _UNKNOWN)
    body = _content(pause, served) | {"instance_id": served.instance_id, "tier": "all"}
    return (Call(method="POST", path="/cache/delete", server="lmcache", body=body),), (device,)


def _pinned(pause: Pause, served: Served) -> tuple[Call, ...]:
    body = _content(pause, served)
    assert pause.verdict is not None
    overdue_s = pause.verdict.expected_return_p90_s
    return (
        Call(method="POST", path="/cache/pins", server="lmcache", body=body),
        Call(
            method="DELETE",
            path="/cache/pins",
            server="lmcache",
            body=body,
            after_s=max(overdue_s, 0.0) if isfinite(overdue_s) else _PIN_S,
            on_return=OnReturn.NOW,
        ),
    )


def _is_known(pause: Pause, served: Served) -> bool:
    return bool(len(pause.token_ids) and served.model and served.instance_id)


def _content(pause: Pause, served: Served) -> dict[str, Any]:
    return {
        "model_name": served.model,
        "world_size": served.world_size,
        "token_ids": list(pause.token_ids),
        "cache_salt": served.cache_salt,
    }
