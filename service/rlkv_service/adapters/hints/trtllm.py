"""TensorRT-LLM: priorities of token ranges in process, the conversation's name over HTTP.

Read on the main branch of TensorRT-LLM (2026): ``docs/source/features/kvcache.md`` (commit
0076e9390e1e), ``cpp/tensorrt_llm/executor/kvCacheRetentionConfig.cpp`` (3585984b32cd),
``tensorrt_llm/serve/conversation_id.py`` (295125be1eee) and ``serve/openai_protocol.py``, which
refuses fields that it does not know.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from rlkv_service.adapters.hints.headers import header
from rlkv_service.adapters.hints.hints import Hints
from rlkv_service.adapters.hints.pause import Pause, Served
from rlkv_service.schema import Verb

#: Of every block that nobody speaks of, and the smallest that is copied to the host before it goes
#: (``secondary_offload_min_priority``).
_DEFAULT_PRIORITY = 35
_HIGHEST_PRIORITY = 100


def retention_config(pause: Pause) -> dict[str, Any] | None:
    """What ``tensorrt_llm.llmapi.KvCacheRetentionConfig`` is made of; None: the default is right.

    PRESERVE is 36 to 100 until the lease ends, then the default 35. SWAP is the default: in its
    turn the block goes through the host, if ``host_cache_size`` gives it room. DISCARD is 0: taken
    first, and not copied. Fixed when the request is sent.

    Durations are ``*_duration_ms`` here, integers; the binding wants
    ``datetime.timedelta(milliseconds=...)``. docs/hints.md has the lines.
    """
    verdict = pause.verdict
    if pause.ends or (verdict is not None and verdict.verb is Verb.DISCARD):
        start, priority, duration_ms = pause.shared_tokens or 0, 0, None
    elif verdict is None or verdict.verb is Verb.SWAP:
        return None
    else:
        above = _HIGHEST_PRIORITY - _DEFAULT_PRIORITY - 1
        priority = _DEFAULT_PRIORITY + 1 + round(above * verdict.soft_priority / 100)
        start = 0
        duration_ms = round(1e3 * verdict.lease_s) if isfinite(verdict.lease_s) else None
    prompt = {
        "token_start": start,
        "token_end": None,
        "priority": priority,
        "duration_ms": duration_ms,
    }
    return {
        "token_range_retention_configs": [prompt],
        "decode_retention_priority": priority,
        "decode_duration_ms": duration_ms,
    }


def trtllm(pause: Pause, _: Served) -> Hints:
    """In process the argument of ``generate_async``; over HTTP the conversation's name alone.

    The name keeps a conversation on one server where the router is told to. ``trtllm-serve`` has no
    field for retention, and answers a field that it does not know with an error.
    """
    config = retention_config(pause)
    lost: tuple[str, ...] = ()
    if config is not None:
        lost = ("Over HTTP everything: trtllm-serve takes no retention.",)
    return Hints(
        headers=header("x-session-id", pause.session),
        in_process={} if config is None else {"kv_cache_retention_config": config},
        lost=lost,
    )
