"""One verdict in the words of other engines: pure functions, nothing is sent from here.

    from rlkv_service.adapters.hints import BACKENDS, Pause, Served, verdict_at, with_fields

    pause = Pause(session="chat-17", turn=3, tool="search", verdict=verdict_at(verdicts, 0))
    hints = BACKENDS["sglang"](pause, Served())
    body = with_fields(body, hints)  # and hints.headers, hints.calls, hints.lost

docs/hints.md says what each engine can express, what is lost, and what was tested how.
"""

from collections.abc import Mapping

from rlkv_service.adapters.hints.anthropic import anthropic
from rlkv_service.adapters.hints.dynamo import dynamo
from rlkv_service.adapters.hints.hints import Call, Hints, Mapper, OnReturn, with_fields
from rlkv_service.adapters.hints.kv_hints import kv_hints
from rlkv_service.adapters.hints.lmcache import lmcache
from rlkv_service.adapters.hints.pause import Pause, Served, Verdict, verdict_at
from rlkv_service.adapters.hints.sglang import sglang
from rlkv_service.adapters.hints.trtllm import trtllm
from rlkv_service.adapters.hints.vllm import plug_in, stock_offloading

#: The mapping of each backend, by the name that users give it.
BACKENDS: Mapping[str, Mapper] = {
    "anthropic": anthropic,
    "dynamo": dynamo,
    "kv-hints": kv_hints,
    "lmcache": lmcache,
    "sglang": sglang,
    "trtllm": trtllm,
    "vllm": plug_in,
    "vllm-offloading": stock_offloading,
}

__all__ = [
    "BACKENDS",
    "Call",
    "Hints",
    "Mapper",
    "OnReturn",
    "Pause",
    "Served",
    "Verdict",
    "verdict_at",
    "with_fields",
]
