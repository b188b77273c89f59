"""The OpenAI protocol as its own client sees it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.service.openai_server.chats import (
    TOOLS,
    Messages,
    answered,
    chat,
    prompt_tokens,
    session_of,
    streaming,
    text_of,
    tool_result,
    user,
)
from tests.service.openai_server.running_server import Running
from tests.service.openai_server.scripted_model import encode


def test_models(server: Running) -> None:
    client = server.client()
    (model,) = client.models.list().data
    assert (model.id, model.object, model.model_extra) == (
        "scripted",
        "model",
        {"max_model_len": 4096},
    )
    assert client.models.retrieve("scripted") == model
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-9', this server has 'scripted'"):
        client.models.retrieve("gpt-9")


def test_a_completion_of_text_and_of_tokens(server: Running) -> None:
    client = server.client()
    whole = client.completions.create(model="scripted", prompt="abc", temperature=0, max_tokens=9)
    assert (whole.object, whole.id[:4]) == ("text_completion", "cmpl")
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("defghijkl", "length")
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (3, 9)
    assert whole.usage.total_tokens == 12
    tokens = client.completions.create(
        model="scripted", prompt=[encode("abc")], temperature=0, stop=["k", "hi"]
    )
    assert (tokens.choices[0].text, tokens.choices[0].finish_reason) == ("defg", "stop")
    # Up to the end of the alphabet, 16 tokens if nothing is said.
    said = client.completions.create(model="scripted", prompt=["a"], temperature=0)
    assert said.choices[0].text == "bcdefghijklmnopq"
    said = client.completions.create(model="scripted", prompt="x", temperature=0)
    assert (said.choices[0].text, said.choices[0].finish_reason) == ("yz", "stop")


def test_a_streamed_completion(server: Running) -> None:
    chunks = list(
        server.client().completions.create(
            model="scripted", prompt="abc", temperature=0, max_tokens=5, stop="g", stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    assert [c.choices[0].text for c in chunks[:-1]] == ["d", "e", "f", ""]
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None, None, None, "stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 4
    assert len({c.id for c in chunks}) == 1


def test_a_chat(server: Running) -> None:
    messages = [{"role": "system", "content": "Be brief."}, user("hello")]
    whole = chat(server.client(), messages)
    assert (whole.object, whole.id[:9]) == ("chat.completion", "chatcmpl-")
    assert (text_of(whole), whole.choices[0].finish_reason) == ("You said: hello", "stop")
    assert whole.choices[0].message.tool_calls is None
    assert whole.usage.prompt_tokens == len(prompt_tokens(messages))
    # With the token that ends it.
    assert whole.usage.completion_tokens == len(encode("You said: hello")) + 1


def test_a_chat_of_parts_and_of_a_developer(server: Running) -> None:
    parts = [{"type": "text", "text": "say it "}, {"type": "text", "text": "loud"}]
    messages: Messages = [{"role": "developer", "content": "Be brief."}]
    messages.append({"role": "user", "content": parts})
    assert text_of(chat(server.client(), messages)) == "it loud"


def test_a_streamed_chat(server: Running) -> None:
    chunks = list(
        streaming(
            server.client(), [user("say the name of")], stream_options={"include_usage": True}
        )
    )
    first, *middle, last, usage = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert [c.choices[0].delta.content for c in middle] == ["t", "h", "e", " name", " of"]
    assert (last.choices[0].delta.content, last.choices[0].finish_reason) == (None, "stop")
    assert (usage.choices, usage.usage is not None) == ([], True)
    assert all(c.usage is None for c in chunks[:-1])
    # Without the option there is no usage.
    *_, last = streaming(server.client(), [user("say one")])
    assert last.choices[0].finish_reason == "stop"


def test_events_are_those_of_the_protocol(server: Running) -> None:
    body = {"model": "scripted", "messages": [user("say so")], "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-session-id"].startswith("session-")
        events = response.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: "))["object"] for event in events[:-2])


def test_max_tokens_end_a_chat(server: Running) -> None:
    for option in ("max_tokens", "max_completion_tokens"):
        cut = chat(server.client(), [user("count 50")], **{option: 4})
        assert cut.choices[0].finish_reason == "length"
        assert cut.usage.completion_tokens == 4


def test_a_seed_repeats_what_chance_says(server: Running) -> None:
    def drawn(**options: object) -> Any:
        said = server.client().completions.create(
            model="scripted",
            prompt="abc",
            max_tokens=12,
            **options,
        )
        return said.choices[0].text

    assert drawn(seed=3, temperature=2) == drawn(seed=3, temperature=2)
    # The temperature is 1 if nothing is said.
    assert drawn(seed=3) != drawn(seed=4) and drawn(seed=3) != "defghijklmno"
    # The likeliest of the script's tokens has a chance of 2.7 in 514.
    assert drawn(seed=3, top_p=0.005) == "defghijklmno"


def test_a_tool_is_called_and_its_result_read(server: Running) -> None:
    client = server.client()
    messages = [user("call search")]
    first = chat(client, messages, tools=TOOLS)
    assert first.choices[0].finish_reason == "tool_calls"
    assert text_of(first) is None
    (call,) = first.choices[0].message.tool_calls
    assert (call.type, call.function.name) == ("function", "search")
    assert json.loads(call.function.arguments) == {"query": "search?"}
    assert server.engine.tools[-1] == "search"
    messages = [*answered(messages, first), tool_result(first, "42")]
    second = chat(client, messages, tools=TOOLS)
    assert (text_of(second), second.choices[0].finish_reason) == ("The tool says 42.", "stop")
    assert session_of(second) == session_of(first)
    assert server.engine.tools[-1] == "human"


def test_a_tool_call_is_streamed(server: Running) -> None:
    chunks = list(streaming(server.client(), [user("call shell search")], tools=TOOLS))
    deltas = [delta for c in chunks for delta in c.choices[0].delta.tool_calls or []]
    for index, name in enumerate(("shell", "search")):
        first, *rest = [delta for delta in deltas if delta.index == index]
        assert first.id.startswith("call_")
        assert (first.function.name, first.function.arguments) == (name, "")
        texts = [d.function.arguments for d in rest]
        assert len(texts) > 3 and json.loads("".join(texts)) == {"query": f"{name}?"}
    assert not any(c.choices[0].delta.content for c in chunks)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_tools_need_not_be_called_or_only_one_or_must(server: Running) -> None:
    client = server.client()
    two = [user("call search shell")]
    text = chat(client, two, tools=TOOLS, tool_choice="none")
    assert "<tool_call>" in str(text_of(text)) and text.choices[0].message.tool_calls is None
    one = chat(client, two, tools=TOOLS, parallel_tool_calls=False)
    assert len(one.choices[0].message.tool_calls) == 1
    assert one.choices[0].finish_reason == "tool_calls"
    required = chat(client, two, tools=TOOLS, tool_choice="required")
    assert len(required.choices[0].message.tool_calls) == 2
    named = {"type": "function", "function": {"name": "search"}}
    (call,) = (
        chat(client, [user("call search")], tools=TOOLS, tool_choice=named)
        .choices[0]
        .message.tool_calls
    )
    assert json.loads(call.function.arguments) == {"query": "search?"}


def test_health_and_metrics(server: Running) -> None:
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    chat(server.client(), [user("say yes")])
    metrics = httpx.get(f"{server.url}/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(
        line.rsplit(" ", 1) for line in metrics.text.splitlines() if not line.startswith("#")
    )
    assert float(values['rlkv_engine_turns_total{reason="stop"}']) >= 1
    assert float(values["rlkv_engine_generated_tokens_total"]) >= 2
    assert float(values['rlkv_engine_sessions{state="paused"}']) >= 1
    assert float(values['rlkv_engine_blocks{tier="device"}']) == 512
    assert 0 < float(values['rlkv_engine_used_blocks_ratio{tier="device"}']) < 1
    assert float(values["rlkv_engine_first_token_seconds_count"]) >= 1
