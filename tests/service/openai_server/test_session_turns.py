"""How a session is known again, and what of it is still there."""

from __future__ import annotations

import httpx
import openai
import pytest

from rlkv_service.openai_server.options import ServerOptions
from tests.service.openai_server.chats import (
    TOOLS,
    answered,
    cached,
    chat,
    prompt_tokens,
    session_of,
    streaming,
    text_of,
    tool_result,
    user,
)
from tests.service.openai_server.running_server import Running, running_server
from tests.service.openai_server.scripted_model import encode


@pytest.mark.parametrize("by", ["field", "header", "prefix"])
def test_a_second_turn_finds_its_session(server: Running, by: str) -> None:
    client = server.client()
    options = {
        "field": {"extra_body": {"session_id": "a-field"}},
        "header": {"extra_headers": {"x-session-id": "a-header"}},
        "prefix": {},
    }[by]
    messages = [user(f"say this is known by its {by}")]
    first = chat(client, messages, **options)
    assert session_of(first) == {"field": "a-field", "header": "a-header"}.get(
        by, session_of(first)
    )
    messages = [*answered(messages, first), user("hello")]
    second = chat(client, messages, **options)
    assert text_of(second) == "You said: hello"
    assert session_of(second) == session_of(first)
    # The last token of an answer is never computed.
    assert cached(second) == first.usage.total_tokens - 1
    third = chat(client, [*answered(messages, second), user("bye")], **options)
    assert cached(third) == second.usage.total_tokens - 1


def test_an_answer_that_comes_back_changed_shares_what_is_the_same(server: Running) -> None:
    client = server.client()
    messages = [user("say one two three four")]
    first = chat(client, messages)
    messages = [*messages, {"role": "assistant", "content": "one two 3 4"}, user("hello")]
    second = chat(client, messages)
    assert session_of(second) == session_of(first)
    assert text_of(second) == "You said: hello"
    # The question, and "one two" in four tokens.
    assert cached(second) == len(prompt_tokens(messages[:1])) + len(encode("one two"))


def test_sessions_of_one_prompt_part_with_their_answers(server: Running) -> None:
    client = server.client()
    question = [user("count 40")]
    short, long = chat(client, question, max_tokens=9), chat(client, question, max_tokens=20)
    assert session_of(short) != session_of(long)
    assert cached(long) == 16 * ((len(prompt_tokens(question)) - 1) // 16)
    again = chat(client, [*answered(question, long), user("hello")])
    assert session_of(again) == session_of(long)
    again = chat(client, [*answered(question, short), user("hello")])
    assert session_of(again) == session_of(short)
    # Somebody else begins with the same question.
    assert session_of(chat(client, question)) not in (session_of(short), session_of(long))


def test_a_name_and_a_prefix_do_not_mix(server: Running) -> None:
    client = server.client()
    messages = [user("say what has a name")]
    named = chat(client, messages, extra_body={"session_id": "mixed"})
    messages = [*answered(messages, named), user("hello")]
    assert session_of(chat(client, messages)) != "mixed"
    # Whoever names a session may say something else altogether.
    other = chat(client, [user("say another")], extra_body={"session_id": "mixed"})
    assert (session_of(other), text_of(other)) == ("mixed", "another")
    with pytest.raises(openai.BadRequestError, match="'mixed', the header x-session-id 'other'"):
        chat(
            client,
            messages,
            extra_body={"session_id": "mixed"},
            extra_headers={"x-session-id": "other"},
        )


def test_a_tool_session_is_resumed_with_its_kv(server: Running) -> None:
    client = server.client()
    messages = [user("call shell")]
    first = chat(client, messages, tools=TOOLS)
    messages = [*answered(messages, first), tool_result(first, "done")]
    second = chat(client, messages, tools=TOOLS)
    assert (session_of(second), cached(second)) == (session_of(first), first.usage.total_tokens - 1)


def test_what_went_to_the_host_comes_back() -> None:
    # 24 blocks on the device hold one session of 300 tokens, not two.
    with running_server(rule="swap", num_device_blocks=24, num_host_blocks=64) as server:
        client = server.client()
        chats = [[user(f"count {n}")] for n in (95, 96, 97)]
        firsts = [chat(client, messages) for messages in chats]
        server.wait_until(lambda figures: figures.free_device_blocks == figures.device_blocks)
        for messages, first in zip(chats, firsts, strict=True):
            second = chat(client, [*answered(messages, first), user("hello")])
            assert text_of(second) == "You said: hello"
            assert session_of(second) == session_of(first)
            # Nothing was computed again but what did not fill a block.
            assert cached(second) == (first.usage.total_tokens - 1) // 16 * 16
            httpx.delete(f"{server.url}/v1/sessions/{session_of(first)}")
        server.assert_nothing_is_left()


def test_a_session_that_answers_takes_no_second_request(server: Running) -> None:
    client = server.client()
    busy = {"session_id": "busy"}
    running = streaming(client, [user("count 2000")], extra_body=busy)
    next(running)
    with pytest.raises(openai.ConflictError, match="'busy' is still answering another request"):
        chat(client, [user("hello")], extra_body=busy)
    running.close()
    server.wait_until(lambda figures: figures.running_sessions == 0)
    assert text_of(chat(client, [user("hello")], extra_body=busy)) == "You said: hello"


def test_a_session_is_ended_by_name(server: Running) -> None:
    client = server.client()
    gone = session_of(chat(client, [user("say bye")], extra_body={"session_id": "to-end"}))
    url = f"{server.url}/v1/sessions"
    assert httpx.delete(f"{url}/{gone}").json()["deleted"] is True
    refused = httpx.delete(f"{url}/{gone}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "session_not_found")
    running = streaming(client, [user("count 2000")], extra_body={"session_id": "to-end"})
    next(running)
    assert httpx.delete(f"{url}/to-end").status_code == 200
    with pytest.raises(openai.APIError, match="the session was ended"):
        list(running)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_session_that_is_idle_ends() -> None:
    clock = Clock()
    with running_server(ServerOptions(session_idle_s=60.0), clock) as server:
        client = server.client()
        messages = [user("say one")]
        first = chat(client, messages)
        clock.now_s = 50.0
        other = chat(client, [user("say other")])
        assert server.figures().paused_sessions == 2
        clock.now_s = 61.0
        server.wait_until(lambda figures: figures.paused_sessions == 1)
        second = chat(client, [*answered(messages, first), user("hello")])
        assert session_of(second) not in (session_of(first), session_of(other))
        clock.now_s = 1000.0
        server.wait_until(lambda figures: figures.paused_sessions == 0)
        server.assert_nothing_is_left()
        assert 'ended_sessions_total{reason="idle"} 3.0' in httpx.get(f"{server.url}/metrics").text


def test_one_session_too_many_ends_the_longest_paused() -> None:
    with running_server(ServerOptions(max_sessions=2)) as server:
        client = server.client()
        named = {name: {"session_id": name} for name in "abc"}
        for name in "aba":
            chat(client, [user(f"say {name}")], extra_body=named[name])
        chat(client, [user("say c")], extra_body=named["c"])
        assert server.figures().paused_sessions == 2
        gone = [httpx.delete(f"{server.url}/v1/sessions/{name}").status_code for name in "bac"]
        assert gone == [404, 200, 200]
        streams = [streaming(client, [user("count 2000")]) for _ in range(2)]
        for running in streams:
            next(running)
        with pytest.raises(openai.RateLimitError, match="all 2 sessions are being answered"):
            chat(client, [user("hello")])
        for running in streams:
            running.close()
        server.wait_until(lambda figures: figures.running_sessions == 0)
        server.assert_nothing_is_left()


def test_a_stream_names_its_session(server: Running) -> None:
    chunks = streaming(server.client(), [user("say so")], extra_body={"session_id": "streamed"})
    assert {c.session_id for c in chunks} == {"streamed"}
