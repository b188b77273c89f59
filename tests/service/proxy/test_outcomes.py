"""What a sidecar hears of pauses and says about them, over a real Valkey."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.proxy.backend_facts import METRICS, BackendFacts
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.resp import RespConnection
from rlkv_service.schema import DecisionRequest, Outcome, SessionEnd, decode
from tests.service.client.answering import Responder
from tests.service.proxy.raw_backend import RawBackend, RawRequest, whole
from tests.service.proxy.running_proxy import PATIENCE_S, RunningProxy, running_proxy

MACHINE = {"block_size": 16.0, "num_device_blocks": 1000.0, "prefill_token_s": 1e-4}
HI = {"role": "user", "content": "hi"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "found"}


def completion(message: Any, prompt: int, generated: int, cached: int) -> bytes:
    return json.dumps(
        {
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": generated,
                "prompt_tokens_details": {"cached_tokens": cached},
            },
        }
    ).encode()


def agent_backend(request: RawRequest) -> Iterator[bytes]:
    """Calls a tool, then answers; what it says of tokens is always the same."""
    if not request.line.startswith(b"POST"):
        yield from whole(b"", b"404 Not Found")(request)
    elif b'"tool_call_id"' in request.body:
        said = {"role": "assistant", "content": "Found."}
        yield from whole(completion(said, 150, 5, 96))(request)
    else:
        yield from whole(completion(CALLS, 100, 20, 0))(request)


def post(proxy: RunningProxy, messages: list[Any], **headers: str) -> httpx.Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"model": "m", "messages": messages}
    response = httpx.post(
        f"{proxy.url}/v1/chat/completions", json=body, headers=headers, timeout=PATIENCE_S
    )
    assert response.status_code == 200
    return response


def reported(valkey: EmbeddedValkey, num: int) -> list[Outcome | SessionEnd]:
    """So many outcomes and ends, once the server has them."""

    def read() -> list[Any]:
        with RespConnection(valkey.url) as connection:
            return list(connection.execute("XRANGE", RedisKeys().outcomes, "-", "+"))

    until(lambda: len(read()) >= num)
    payloads = [dict(zip(f[::2], f[1::2], strict=True)) for _, f in read()]
    kinds: dict[bytes, Any] = {b"outcome": Outcome, b"end": SessionEnd}
    messages = []
    for fields in payloads:
        payload = next(iter(fields.values()))
        kind = kinds[b"end" if b"end" in payload[:20] else b"outcome"]
        messages.append(decode(payload, kind))
    return messages


def until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end_s


@pytest.fixture
def agents(backend: RawBackend) -> RawBackend:
    backend.answer = agent_backend
    return backend


def test_pauses_and_ends_are_reported(agents: RawBackend, valkey: EmbeddedValkey) -> None:
    with running_proxy(agents.url, backend="vllm", redis=valkey.url, engine_id="vllm-1") as proxy:
        before_s = time.time()
        name = post(proxy, [HI]).headers["x-rlkv-session"]
        said = [HI, CALLS, RESULT]
        assert post(proxy, said).headers["x-rlkv-session"] == name
        said += [{"role": "assistant", "content": "Found."}, HI]
        post(proxy, said, x_rlkv_ends="true")
        tool, human, end = reported(valkey, 3)
    assert isinstance(tool, Outcome) and isinstance(human, Outcome) and isinstance(end, SessionEnd)
    assert (tool.engine_id, tool.session, tool.turn, tool.tool) == ("vllm-1", name, 0, "search")
    assert (tool.context_tokens, tool.input_tokens, tool.output_tokens) == (120, 100, 20)
    assert (tool.new_tokens, tool.reused_device_tokens, tool.recomputed_tokens) == (30, 96, 24)
    assert 0 < tool.pause_s < PATIENCE_S and before_s <= tool.started_s <= tool.ended_s
    assert tool.verb == -1 and tool.delay_s > 0
    assert (human.turn, human.tool, human.context_tokens) == (1, "human", 155)
    assert (end.session, end.turn) == (name, 2)


def test_a_verdict_travels_with_the_next_request(
    agents: RawBackend, valkey: EmbeddedValkey
) -> None:
    asked: list[DecisionRequest] = []

    def script(request: DecisionRequest) -> bytes | None:
        from tests.service.client.answering import answer

        if request.sessions[0] != "rlkv-probe":
            asked.append(request)
        return answer(request)

    with (
        Responder(valkey.url, script),
        running_proxy(
            agents.url, backend="vllm", redis=valkey.url, machine=MACHINE, sends_verdicts=True
        ) as proxy,
    ):

        def posted() -> dict[str, Any]:
            while not (request := agents.taken()).line.startswith(b"POST"):
                pass  # of metrics
            params: dict[str, Any] = json.loads(request.body)["kv_transfer_params"]["rlkv"]
            return params

        name = post(proxy, [HI]).headers["x-rlkv-session"]
        assert "verb" not in posted()
        session = proxy.proxy.turns.book.find(name)
        assert session is not None
        until(lambda: session.verdict is not None)
        assert session.verdict is not None
        decided = session.verdict.verb
        assert asked[0].sessions == [name] and asked[0].tools == ["search"]
        post(proxy, [HI, CALLS, RESULT])
        params = posted()
        assert params["verb"] == decided.name.lower()
        assert params["turn"] == 1
        (outcome,) = reported(valkey, 1)
        assert isinstance(outcome, Outcome) and outcome.verb == decided


def test_without_a_sidecar_all_goes_on_and_is_counted(
    agents: RawBackend, short_folder: Path
) -> None:
    server = EmbeddedValkey(short_folder)
    with running_proxy(
        agents.url, backend="vllm", redis=server.url, machine=MACHINE, sends_verdicts=True
    ) as proxy:
        server.kill()
        for _ in range(3):
            post(proxy, [HI])
            post(proxy, [HI, CALLS, RESULT])
        metrics = proxy.wait_until(
            lambda metrics: (
                sum(value for name, value in metrics.items() if name.startswith("decisions_total"))
                >= 6
            )
        )
        assert metrics['reports_total{result="written"}'] == 0
        assert all(
            value == 0 or name.split('"')[1] in ("LATE", "DISCONNECTED", "BREAKER_OPEN")
            for name, value in metrics.items()
            if name.startswith("decisions_total")
        )
        assert metrics["errors_total"] == 0
        # What waits is written when there is a server again.
        again = EmbeddedValkey(short_folder)
        try:
            assert len(reported(again, 3)) == 3
        finally:
            again.stop()


def test_facts_are_read_from_metrics() -> None:
    facts = BackendFacts({})
    assert facts.row(0, 0) is None
    facts.learn(
        METRICS["vllm"],
        '# HELP x\nvllm:num_requests_running{engine="0"} 3.0\n'
        'vllm:num_requests_waiting{engine="0"} 2.0\n'
        'vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25\n'
        'vllm:cache_config_info{block_size="32",engine="0",num_gpu_blocks="100"} 1.0\n',
    )
    assert facts.row(0, 0) is None  # what a prompt costs is not known
    facts.saw_prefill(255, 9.0)
    for took_s in (4.0, 1.0, 2.0, 3.0):
        facts.saw_prefill(1000, took_s)
    row = facts.row(0, 9)
    assert row is not None
    assert (row["block_size"], row["num_device_blocks"], row["free_blocks"]) == (32, 100, 75)
    assert (row["num_running"], row["num_queued"], row["prefill_token_s"]) == (3, 2, 0.002)
    facts.learn(METRICS["sglang"], "sglang:max_total_num_tokens 1600\nsglang:page_size 16\n")
    row = facts.row(800, 9)
    assert row is not None and (row["num_device_blocks"], row["free_blocks"]) == (100, 50)
    told = BackendFacts({"block_size": 8.0, "num_device_blocks": 10.0, "prefill_token_s": 1.0})
    told.learn(METRICS["rlkv"], 'rlkv_engine_blocks{tier="device"} 64.0\nbroken {')
    row = told.row(0, 1)
    assert row is not None and row["num_device_blocks"] == 10 and row["free_blocks"] == 10
