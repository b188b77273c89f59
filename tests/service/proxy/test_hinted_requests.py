"""What the proxy adds to requests, and what it leaves."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkv_service.adapters.hints import Hints, with_fields
from rlkv_service.proxy.body_edit import with_hints
from tests.service.proxy.raw_backend import (
    LAST_CHUNK,
    STREAM_HEAD,
    RawBackend,
    RawRequest,
    chunk,
    whole,
)
from tests.service.proxy.running_proxy import PATIENCE_S, RunningProxy, running_proxy

CHAT = "/v1/chat/completions"
ANSWER = {
    "id": "x",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}
HI = {"role": "user", "content": "hi"}


@pytest.fixture
def chatting(backend: RawBackend) -> RawBackend:
    backend.answer = whole(
        json.dumps(ANSWER).encode(), b"200 OK", b"Content-Type: application/json"
    )
    return backend


def ask(proxy: RunningProxy, body: Any, path: str = CHAT, **headers: str) -> httpx.Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = httpx.post(proxy.url + path, content=content, headers=headers)
    assert response.status_code == 200
    return response


def on(*more: Any) -> list[Any]:
    return [HI, {"role": "assistant", "content": "Hello."}, *more]


def test_vllm_is_told_of_session_turn_tool_and_end(chatting: RawBackend) -> None:
    with running_proxy(chatting.url, backend="vllm") as proxy:
        said = b' { "model" : "m",\n"messages":[{"role": "user", "content": "hi"}], "top_p":1.0} \n'
        response = ask(proxy, said)
        name = response.headers["x-rlkv-session"]
        taken = chatting.taken().body
        assert taken.startswith(said.rstrip()[:-1])
        added = json.loads(taken).keys() - json.loads(said).keys()
        assert added == {"session_id", "kv_transfer_params"}
        body = json.loads(taken)
        assert body["session_id"] == name
        assert body["kv_transfer_params"] == {"rlkv": {"session": name, "turn": 0}}
        response = ask(
            proxy, {"model": "m", "messages": on(HI)}, x_rlkv_tool="search", x_rlkv_ends="true"
        )
        assert response.headers["x-rlkv-session"] == name
        request = chatting.taken()
        assert json.loads(request.body)["kv_transfer_params"]["rlkv"] == {
            "session": name, "turn": 1, "tool": "search", "ends": True,
        }  # fmt: skip
        assert request.all(b"x-rlkv-tool") == [b"search"]
        metrics = proxy.metrics()
        assert metrics['ended_sessions_total{reason="told"}'] == 1
        assert metrics["hinted_requests_total"] == 2


def test_what_the_client_says_itself_stays(chatting: RawBackend) -> None:
    with running_proxy(chatting.url, backend="vllm") as proxy:
        own: dict[str, Any] = {"rlkv": {"turn": 7, "verb": "swap"}, "other": 1}
        body = {"model": "m", "messages": [HI], "session_id": "mine", "kv_transfer_params": own}
        ask(proxy, body)
        sent = json.loads(chatting.taken().body)
        assert sent["session_id"] == "mine"
        assert sent["kv_transfer_params"] == own | {"rlkv": {"session": "mine", **own["rlkv"]}}
        assert list(sent)[:4] == list(body)


@pytest.mark.parametrize("by", ["field", "header", "params"])
def test_clients_name_their_sessions(chatting: RawBackend, by: str) -> None:
    by_way: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
        "field": ({"session_id": "mine"}, {}),
        "header": ({}, {"x_session_id": "mine"}),
        "params": ({"kv_transfer_params": {"rlkv": {"session": "mine"}}}, {}),
    }
    more, headers = by_way[by]
    with running_proxy(chatting.url, backend="vllm") as proxy:
        for turn in range(2):
            response = ask(proxy, {"model": "m", "messages": [HI], **more}, **headers)
            assert response.headers["x-rlkv-session"] == "mine"
            sent = json.loads(chatting.taken().body)
            assert sent["kv_transfer_params"]["rlkv"]["turn"] == turn
        assert proxy.metrics()['begun_sessions_total{by="client"}'] == 1


@pytest.mark.parametrize("words", ["openai", "rlkv"])
def test_some_backends_are_told_nothing(chatting: RawBackend, words: str) -> None:
    with running_proxy(chatting.url, backend=words) as proxy:
        said = b'{"model":"m", "messages":[{"role":"user","content":"hi"}]}'
        assert "x-rlkv-session" in ask(proxy, said).headers
        request = chatting.taken()
        assert request.body == said
        assert not request.all(b"x-session-id")


def test_headers_of_a_hint_go_behind_the_clients_own(chatting: RawBackend) -> None:
    with running_proxy(chatting.url, backend="dynamo") as proxy:
        name = ask(proxy, {"model": "m", "messages": [HI]}).headers["x-rlkv-session"]
        assert chatting.taken().all(b"x-dynamo-session-id") == [name.encode()]
        ask(proxy, {"model": "m", "messages": [HI]}, x_dynamo_session_id="mine")
        assert chatting.taken().all(b"x-dynamo-session-id") == [b"mine"]


def test_fields_go_where_they_are_known(chatting: RawBackend) -> None:
    said = b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}'
    with running_proxy(chatting.url, backend="vllm") as proxy:
        ask(proxy, said, "/v1/messages")
        request = chatting.taken()
        assert request.body == said
        assert request.all(b"x-session-id")[0].startswith(b"rlkv-")
        ask(proxy, said, "/v1/embeddings")
        assert chatting.taken().body == said


@pytest.mark.parametrize(
    "said",
    [
        b"", b"[]", b"{", b'{"messages": 3}', b'{"messages": [3, "x", null]}', b'"x"', b"\xff\xfe",
        b'{"messages": [{"role": "user"}], "session_id": ' + b"[" * 5000 + b"}",
        b'{"model": 3, "session_id": 7, "messages": []}', b'{"prompt": "\xff"}',
        b'{"messages":[{"role":"assistant","tool_calls":7}], "kv_transfer_params": "x"}',
    ],
)  # fmt: skip
def test_what_makes_no_sense_passes_as_it_is(chatting: RawBackend, said: bytes) -> None:
    with running_proxy(chatting.url, backend="vllm") as proxy:
        for path in (CHAT, "/v1/completions", "/v1/responses", "/v1/messages"):
            ask(proxy, said, path)
            sent = chatting.taken().body
            assert sent == said or sent.startswith(said.rstrip()[:-1])
        assert proxy.metrics()["errors_total"] == 0


def test_sglang_is_told_when_a_session_ends(backend: RawBackend) -> None:
    def answer(request: RawRequest) -> Any:
        body = json.dumps(ANSWER).encode()
        yield from whole(body, b"200 OK", b"Content-Type: application/json")(request)

    backend.answer = answer
    with running_proxy(backend.url, backend="sglang") as proxy:
        name = ask(proxy, {"model": "m", "messages": [HI]}, x_rlkv_ends="1").headers[
            "x-rlkv-session"
        ]
        assert json.loads(backend.taken().body)["session_id"] == name
        closing = backend.taken()
        assert closing.line == b"POST /close_session HTTP/1.1"
        assert json.loads(closing.body) == {"session_id": name}
        proxy.wait_until(lambda metrics: metrics.get('backend_calls_total{result="done"}') == 1)


def test_a_session_that_is_deleted_at_the_backend_is_over(chatting: RawBackend) -> None:
    with running_proxy(chatting.url, backend="rlkv") as proxy:
        ask(proxy, {"model": "m", "messages": [HI], "session_id": "a b"})
        assert httpx.delete(f"{proxy.url}/v1/sessions/a%20b").status_code == 200
        assert proxy.metrics()['ended_sessions_total{reason="told"}'] == 1


def test_an_answer_in_another_encoding_passes_unread(backend: RawBackend) -> None:
    backend.answer = whole(b"\x1f\x8b...", b"200 OK", b"Content-Encoding: gzip")
    with running_proxy(backend.url, backend="vllm") as proxy:
        body = json.dumps({"model": "m", "messages": [HI]}).encode()
        with httpx.stream("POST", proxy.url + CHAT, content=body) as response:
            assert b"".join(response.iter_raw()) == b"\x1f\x8b..."
        metrics = proxy.metrics()
        assert metrics['unread_total{why="answer"}'] == 1
        assert metrics['ended_sessions_total{reason="unseen"}'] == 1


NAMES = st.sampled_from(["a", "b", "session_id", "ü", 'q"'])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)


@given(OBJECTS, OBJECTS, st.sampled_from(["", " ", "\n\t "]))
def test_bodies_have_what_is_added_and_all_that_was_there(
    theirs: dict[str, Any], ours: dict[str, Any], space: str
) -> None:
    body = (space + json.dumps(theirs, ensure_ascii=False) + space).encode()
    members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    hints = Hints(fields=ours, ruled_out_by={"a": ("b",)}, ruled_out_within={"ü": ("session_id",)})
    edited = with_hints(body, members, hints)
    assert json.loads(edited) == with_fields(theirs, hints)
    if not theirs.keys() & ours.keys():
        assert edited.startswith(body.rstrip()[:-1])


def test_an_answer_is_known_before_its_body_ends(backend: RawBackend) -> None:
    body_may_end = threading.Semaphore(0)
    last = {"choices": [{"index": 0, "delta": {"content": "Hello."}, "finish_reason": "stop"}]}

    def answer(request: RawRequest) -> Any:
        yield STREAM_HEAD + chunk(f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())
        assert body_may_end.acquire(timeout=PATIENCE_S)
        yield LAST_CHUNK

    backend.answer = answer
    with running_proxy(backend.url, backend="vllm") as proxy, httpx.Client() as client:
        asked = {"model": "m", "messages": [HI], "stream": True}
        with client.stream("POST", proxy.url + CHAT, json=asked) as first:
            pieces = first.iter_raw()
            while b"[DONE]" not in next(pieces):
                pass
            asked["messages"] = on(HI)
            with httpx.stream("POST", proxy.url + CHAT, json=asked) as second:
                assert second.headers["x-rlkv-session"] == first.headers["x-rlkv-session"]
                body_may_end.release(2)
