"""SGLang reads what the mapping says; skipped where SGLang cannot be imported."""

from __future__ import annotations

from typing import Any

import pytest

from rlkv_service.adapters.hints import BACKENDS, Pause, Served, with_fields
from rlkv_service.schema import Verb
from tests.service.adapters.hints.made_pauses import pause_of

pytest.importorskip("sglang.srt", reason="SGLang is not installed", exc_type=ImportError)

VERBS = [*(pause_of(verb) for verb in Verb), Pause(session="chat-17", ends=True)]
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("pause", VERBS)
def test_a_chat_carries_the_session_and_the_priority(pause: Pause) -> None:
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, CompletionRequest

    hints = BACKENDS["sglang"](pause, Served())
    chat = ChatCompletionRequest.model_validate(with_fields(BODY, hints))
    completion = CompletionRequest.model_validate(with_fields({"prompt": "hi"}, hints))
    for request in (chat, completion):
        assert request.session_id == "chat-17" and request.priority == hints.fields["priority"]


@pytest.mark.parametrize("pause", VERBS)
def test_generate_carries_the_session_the_priority_and_an_envelope(pause: Pause) -> None:
    from sglang.srt.managers.io_struct import GenerateReqInput
    from sglang.srt.managers.kv_hints import KvHintsEnvelope

    envelope = BACKENDS["kv-hints"](pause, Served())
    body = with_fields(with_fields({"text": "hi"}, BACKENDS["sglang"](pause, Served())), envelope)
    request = GenerateReqInput(**body)
    request.normalize_batch_and_arguments()
    assert request.session_id == "chat-17" and request.priority == body["priority"]
    if envelope.fields:
        assert isinstance(request.kv_hints, KvHintsEnvelope)
        assert request.kv_hints.actions[0].action_type == "kv.retain"


def test_the_two_kinds_of_session_exclude_each_other() -> None:
    from sglang.srt.managers.io_struct import GenerateReqInput

    theirs: dict[str, Any] = {"text": "hi", "session_params": {"id": "x"}}
    hints = BACKENDS["sglang"](pause_of(Verb.PRESERVE), Served())
    GenerateReqInput(**with_fields(theirs, hints)).normalize_batch_and_arguments()
    with pytest.raises(ValueError, match="cannot both be set"):
        GenerateReqInput(**theirs, **hints.fields).normalize_batch_and_arguments()


def test_closing_a_session_is_a_request_that_is_read() -> None:
    from pydantic import TypeAdapter
    from sglang.srt.managers.io_struct import CloseSessionReqInput

    (call,) = BACKENDS["sglang"](pause_of(Verb.DISCARD), Served()).calls
    # As FastAPI reads the body of /close_session.
    read = TypeAdapter(CloseSessionReqInput).validate_python(call.body)
    assert read.session_id == "chat-17"


def test_the_radix_cache_takes_what_is_discarded_first_and_what_is_preserved_last() -> None:
    # SGLang's own cache with --radix-eviction-policy priority, three sessions and a stranger.
    import torch
    from sglang.srt.mem_cache.base_prefix_cache import EvictParams, InsertParams
    from sglang.srt.mem_cache.evict_policy import PriorityStrategy
    from sglang.srt.mem_cache.radix_cache import RadixCache, RadixKey

    freed: list[int] = []

    class Allocator:
        device = "cpu"

        def free_segment(self, indices: Any, start_pos: int) -> None:
            freed.extend(indices.tolist())

    cache = RadixCache.create_simulated(mock_allocator=Allocator())
    cache.eviction_strategy = PriorityStrategy()
    pauses = {
        10: pause_of(Verb.PRESERVE, priority=90),
        20: None,
        30: pause_of(Verb.DISCARD, priority=90),
        40: pause_of(Verb.PRESERVE, priority=60),
    }
    for first, pause in pauses.items():
        priority = 0 if pause is None else BACKENDS["sglang"](pause, Served()).fields["priority"]
        tokens = [first, first + 1]
        key = RadixKey(tokens, None)
        cache.insert(InsertParams(key=key, value=torch.tensor(tokens), priority=priority))
    for gone in ([30, 31], [20, 21], [40, 41], [10, 11]):
        cache.evict(EvictParams(num_tokens=2))
        assert freed[-2:] == gone
