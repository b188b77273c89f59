"""The ``kv_hints`` envelope that vLLM and SGLang carry, with the action of a branch of vLLM.

Read: ``vllm/v1/kv_hints/protocol.py`` in vLLM 0.32.0, where ``AsyncLLM.generate(kv_hints=...)``
takes an envelope, no route of the HTTP server does, and the core executes no action; and
``srt/managers/kv_hints.py`` in SGLang 0.5.23, where ``/generate`` takes it and nothing executes it.
``kv.retain`` 1.0 is that of ``vllm/v1/kv_hints/retain.py``, commit 75e6cadade0c, which is on no
release: experimental, until it is.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from rlkv_service.adapters.hints.hints import Hints
from rlkv_service.adapters.hints.pause import Pause, Served
from rlkv_service.schema import Verb

#: Of ``dispatch.py``, commit e99ac19d1690.
_PROTOCOL_VERSION = "0.1"
_MAX_DURATION_S = 30 * 24 * 3600.0


def kv_hints(pause: Pause, _: Served) -> Hints:
    """An envelope with one ``kv.retain``: from where a range begins, to the end of the output.

    Priority 1 to 100 protects, 0 releases, and must not rise along the tokens.
    """
    verdict = pause.verdict
    if pause.ends or (verdict is not None and verdict.verb is Verb.DISCARD):
        # What others share is left as it is.
        directive: dict[str, Any] = {"start": pause.shared_tokens or 0, "priority": 0}
        shared = "DISCARD: of tokens that others share, where nobody says how many these are."
        lost = (shared,) if pause.shared_tokens is None else ()
    elif verdict is None:
        return Hints()
    elif verdict.verb is Verb.SWAP:
        return Hints(lost=("SWAP: no action moves KV to the host.",))
    else:
        lost = ()
        directive = {"start": 0, "priority": max(verdict.soft_priority, 1)}
        if isfinite(verdict.lease_s):
            directive["duration"] = min(verdict.lease_s, _MAX_DURATION_S)
    message_id = f"{pause.session}/{0 if pause.turn is None else pause.turn}"
    action = {
        "action_id": message_id,
        "action_type": "kv.retain",
        "action_version": "1.0",
        "payload": {"scope": pause.session, "directives": [directive]},
    }
    envelope = {
        "protocol_version": _PROTOCOL_VERSION,
        "message_id": message_id,
        "actions": [action],
    }
    said = {"kv_hints": envelope}
    return Hints(fields=said, in_process=said, lost=lost)
