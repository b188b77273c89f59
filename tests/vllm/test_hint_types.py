"""vLLM's own types read what the mappings say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rlkv_service.adapters.hints import BACKENDS, Pause, Served, Verdict, with_fields
from rlkv_service.schema import Verb

pytestmark = pytest.mark.vllm

BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def pause_of(verb: Verb) -> Pause:
    verdict = Verdict(verb=verb, lease_s=2.5, soft_priority=80)
    return Pause(session="chat-17", turn=3, tool="search", verdict=verdict)


PAUSES = [*(pause_of(verb) for verb in Verb), Pause(session="chat-17", ends=True)]


@pytest.mark.parametrize("backend", ["vllm", "vllm-offloading", "lmcache"])
@pytest.mark.parametrize("pause", PAUSES)
def test_a_request_carries_the_fields_to_the_engine(backend: str, pause: Pause) -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    hints = BACKENDS[backend](pause, Served())
    chat = ChatCompletionRequest.model_validate(with_fields(BODY, hints))
    text = CompletionRequest.model_validate(with_fields({"model": "m", "prompt": "hi"}, hints))
    params = hints.fields.get("kv_transfer_params")
    for request in (chat, text):
        # None of them is a field that vLLM only logs.
        assert not request.model_extra and request.session_id == "chat-17"
        sampling = request.to_sampling_params(8, {})
        assert (sampling.extra_args or {}).get("kv_transfer_params") == params


@pytest.mark.parametrize("pause", PAUSES)
def test_the_stock_offloading_tier_reads_its_limit(pause: Pause) -> None:
    from vllm.distributed.kv_transfer.kv_connector.v1.offloading import scheduler

    params = BACKENDS["vllm-offloading"](pause, Served()).fields.get("kv_transfer_params")
    request: Any = SimpleNamespace(request_id="r", kv_transfer_params=params)
    config: Any = SimpleNamespace(kv_group_configs=())
    nothing: Any = None
    state = scheduler.RequestOffloadState(config, request, nothing, nothing)
    discards = pause.verdict is None or pause.verdict.verb is Verb.DISCARD
    assert state.max_offload_tokens == (0 if discards else None)
    assert state.max_load_tokens is None


def test_an_envelope_is_vllms_envelope() -> None:
    import msgspec
    from vllm.v1.kv_hints import KvHintsEnvelope

    fields = BACKENDS["kv-hints"](pause_of(Verb.PRESERVE), Served()).fields
    read = msgspec.convert(fields["kv_hints"], KvHintsEnvelope, strict=True)
    assert read.actions[0].action_type == "kv.retain"
    assert read.actions[0].payload["directives"] == [{"start": 0, "priority": 80, "duration": 2.5}]
