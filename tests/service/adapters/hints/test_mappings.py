"""What each mapping makes of each verb, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from rlkv_service.adapters.hints import (
    BACKENDS,
    Call,
    Hints,
    OnReturn,
    Pause,
    Served,
)
from rlkv_service.schema import Verb
from tests.service.adapters.hints.made_pauses import pause_of

SERVED = Served(model="llama", world_size=2, instance_id="node-0", cache_salt="s")
ENDED = Pause(session="chat-17", ends=True)
NAMED = Pause(session="chat-17")


def hints_of(backend: str, pause: Pause, served: Served = SERVED) -> Hints:
    return BACKENDS[backend](pause, served)


def test_vllm_with_the_plug_in() -> None:
    def said(pause: Pause) -> Any:
        hints = hints_of("vllm", pause)
        assert hints.fields["session_id"] == "chat-17" and not hints.lost and not hints.calls
        return hints.fields["kv_transfer_params"]["rlkv"]

    known = {"session": "chat-17", "turn": 3, "tool": "search"}
    assert said(pause_of(Verb.PRESERVE, lease_s=2.5)) == known | {
        "verb": "preserve",
        "lease_s": 2.5,
    }
    assert said(pause_of(Verb.SWAP)) == known | {"verb": "swap"}
    assert said(pause_of(Verb.DISCARD, tool="", turn=0)) == {
        "session": "chat-17", "turn": 0, "verb": "discard",
    }  # fmt: skip
    assert said(NAMED) == {"session": "chat-17"}
    assert said(pause_of(Verb.PRESERVE, ends=True)) == known | {"ends": True}


def test_vllm_without_the_plug_in() -> None:
    def params(pause: Pause) -> Any:
        return hints_of("vllm-offloading", pause).fields.get("kv_transfer_params")

    assert params(pause_of(Verb.DISCARD)) == params(ENDED) == {"max_offload_tokens": 0}
    assert params(pause_of(Verb.SWAP)) is params(pause_of(Verb.PRESERVE)) is params(NAMED) is None
    assert hints_of("vllm-offloading", NAMED) == Hints(fields={"session_id": "chat-17"})


@pytest.mark.parametrize(("soft", "priority"), [(0, -5), (49, -1), (50, 0), (60, 1), (100, 5)])
def test_sglang(soft: int, priority: int) -> None:
    for verb in (Verb.PRESERVE, Verb.SWAP):
        hints = hints_of("sglang", pause_of(verb, priority=soft))
        assert hints.fields == {"session_id": "chat-17", "priority": priority}
        assert not hints.calls and hints.lost
    closed = (Call(method="POST", path="/close_session", body={"session_id": "chat-17"}),)
    for pause in (pause_of(Verb.DISCARD, priority=soft), ENDED):
        hints = hints_of("sglang", pause)
        assert (hints.fields["priority"], hints.calls) == (-5, closed)
    assert hints_of("sglang", NAMED).fields == {"session_id": "chat-17"}


def retention_config(pause: Pause) -> Any:
    return hints_of("trtllm", pause).in_process.get("kv_cache_retention_config")


def test_tensorrt_llm_in_process() -> None:
    preserved = retention_config(pause_of(Verb.PRESERVE, priority=100, lease_s=2.5))
    assert preserved == {
        "token_range_retention_configs": [
            {"token_start": 0, "token_end": None, "priority": 100, "duration_ms": 2500}
        ],
        "decode_retention_priority": 100,
        "decode_duration_ms": 2500,
    }
    least = retention_config(pause_of(Verb.PRESERVE, priority=0))
    # Above every block that nobody speaks of, and without an end.
    assert (least["decode_retention_priority"], least["decode_duration_ms"]) == (36, None)
    for pause in (pause_of(Verb.DISCARD, shared_tokens=640), ENDED):
        discarded = retention_config(pause)
        assert discarded["decode_retention_priority"] == 0
        (prompt,) = discarded["token_range_retention_configs"]
        assert prompt["priority"] == 0 and prompt["token_start"] == (pause.shared_tokens or 0)
    assert retention_config(pause_of(Verb.SWAP)) is retention_config(NAMED) is None


def test_tensorrt_llm_over_http() -> None:
    hints = hints_of("trtllm", pause_of(Verb.PRESERVE))
    assert (hints.fields, hints.headers) == ({}, {"x-session-id": "chat-17"})
    assert hints.lost and not hints_of("trtllm", pause_of(Verb.SWAP)).lost
    assert hints_of("trtllm", Pause(session="Bücher")).headers == {}


def test_dynamo() -> None:
    hints = hints_of("dynamo", pause_of(Verb.PRESERVE, parent_session="chat-1"))
    assert hints.fields == {"nvext": {"agent_hints": {"priority": 1}}}
    assert hints.headers == {
        "x-dynamo-session-id": "chat-17", "x-dynamo-parent-session-id": "chat-1",
    }  # fmt: skip
    for verb, priority in ((Verb.SWAP, 0), (Verb.DISCARD, -1)):
        fields = hints_of("dynamo", pause_of(verb)).fields
        assert fields["nvext"]["agent_hints"]["priority"] == priority
    assert hints_of("dynamo", NAMED).fields == {}
    (final,) = hints_of("dynamo", ENDED).calls
    assert final.headers["x-dynamo-session-final"] == "true"
    assert final.body is not None and final.body["model"] == "llama"
    # The last real request does not say it: the agent router would not answer it.
    assert "x-dynamo-session-final" not in hints_of("dynamo", ENDED).headers
    assert not hints_of("dynamo", ENDED, Served()).calls


def test_kv_hints() -> None:
    def directive(pause: Pause) -> Any:
        envelope = hints_of("kv-hints", pause).fields["kv_hints"]
        (action,) = envelope["actions"]
        assert (action["action_type"], action["action_version"]) == ("kv.retain", "1.0")
        (said,) = action["payload"]["directives"]
        return said

    assert directive(pause_of(Verb.PRESERVE, lease_s=2.5)) == {
        "start": 0, "priority": 80, "duration": 2.5,
    }  # fmt: skip
    # 0 would release it; and the longest time is a month.
    long = directive(pause_of(Verb.PRESERVE, priority=0, lease_s=1e9))
    assert long == {"start": 0, "priority": 1, "duration": 2_592_000.0}
    assert directive(pause_of(Verb.PRESERVE)) == {"start": 0, "priority": 80}
    assert directive(pause_of(Verb.DISCARD, shared_tokens=640)) == {"start": 640, "priority": 0}
    assert directive(ENDED) == {"start": 0, "priority": 0}
    assert not hints_of("kv-hints", pause_of(Verb.SWAP)).fields
    assert hints_of("kv-hints", NAMED) == Hints()


CONTENT = {"model_name": "llama", "world_size": 2, "token_ids": [1, 2, 3], "cache_salt": "s"}


def test_lmcache_keeps_no_copy_of_what_is_discarded() -> None:
    hints = hints_of("lmcache", pause_of(Verb.DISCARD, shared_tokens=0, token_ids=[1, 2, 3]))
    params = hints.fields["kv_transfer_params"]
    assert params == {"lmcache.skip_save": True, "lmcache.max_offload_tokens": 0}
    delete = CONTENT | {"instance_id": "node-0", "tier": "all"}
    assert hints.calls == (
        Call(method="POST", path="/cache/delete", server="lmcache", body=delete),
    )
    for shared in (None, 640):
        # A delete has no start, and would take what others share.
        spared = pause_of(Verb.DISCARD, shared_tokens=shared, token_ids=[1, 2, 3])
        hints = hints_of("lmcache", spared)
        assert not hints.calls and hints.lost[-1].endswith("other sessions share.")
        params = hints.fields["kv_transfer_params"]
        assert params["lmcache.max_offload_tokens"] == (shared or 0)


def test_lmcache_fetches_what_is_swapped_before_it_is_back() -> None:
    swapped = pause_of(
        Verb.SWAP, token_ids=[1, 2, 3], expected_return_p50_s=8.0, expected_return_p90_s=60.0
    )
    fetch = Call(
        method="POST", path="/cache/prefetches", server="lmcache", after_s=4.0,
        body=CONTENT | {"instance_id": "node-0"}, on_return=OnReturn.SKIP,
    )  # fmt: skip
    assert hints_of("lmcache", swapped).calls == (fetch,)
    pinned = Served(model="llama", world_size=2, instance_id="node-0", cache_salt="s", pins=True)
    pin, unpin, again = hints_of("lmcache", swapped, pinned).calls
    assert again == fetch and pin.body == unpin.body == CONTENT and pin.path == unpin.path
    assert (pin.method, pin.after_s) == ("POST", 0.0)
    # Whatever comes first, and always.
    assert (unpin.method, unpin.after_s, unpin.on_return) == ("DELETE", 60.0, OnReturn.NOW)
    _, overdue = hints_of("lmcache", pause_of(Verb.SWAP, token_ids=[1, 2, 3]), pinned).calls
    assert overdue.after_s == 300.0
    for unknown in (Served(), Served(model="llama"), Served(instance_id="node-0")):
        assert not hints_of("lmcache", swapped, unknown).calls
    assert not hints_of("lmcache", pause_of(Verb.PRESERVE, token_ids=[1])).calls


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("p50_s", "p90_s", "ttl"),
    [(1.0, 300.0, "5m"), (1.0, 301.0, "1h"), (3600.0, INF, "1h"), (3601.0, 9000.0, "5m"),
     (NAN, NAN, "5m"), (NAN, 301.0, "1h")],
)  # fmt: skip
def test_anthropic(p50_s: float, p90_s: float, ttl: str) -> None:
    for verb in (Verb.PRESERVE, Verb.SWAP):
        pause = pause_of(verb, expected_return_p50_s=p50_s, expected_return_p90_s=p90_s)
        fields = hints_of("anthropic", pause).fields
        assert fields == {"cache_control": {"type": "ephemeral", "ttl": ttl}}
    for pause in (pause_of(Verb.DISCARD), ENDED, NAMED):
        assert not hints_of("anthropic", pause).fields
