"""OpenAI's own client in front of our own server, with the proxy between and without."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.service.openai_server.chats import (
    TOOLS,
    answered,
    chat,
    streaming,
    text_of,
    tool_result,
    user,
)
from tests.service.openai_server.running_server import Running, running_server
from tests.service.proxy.running_proxy import PATIENCE_S, RunningProxy, running_proxy

#: What an answer has of its own: its name, its time, its session, its calls.
_OWN = re.compile(
    rb'(?<="id":")[^"]*|(?<="created":)\d+|(?<="session_id":")[^"]*|(?<=cached_tokens":)\d+'
)
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_server(num_device_blocks=2048, num_host_blocks=512) as running:
        yield running


@pytest.fixture
def proxy(server: Running) -> Iterator[RunningProxy]:
    with running_proxy(server.url, backend="vllm") as running:
        yield running


def both(server: Running, proxy: RunningProxy, body: Any, path: str = CHAT) -> list[httpx.Response]:
    """The same request to the one and the other; each body says nothing of its own any more."""
    return [
        httpx.post(url + path, json=body, timeout=PATIENCE_S) for url in (server.url, proxy.url)
    ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "more",
    [
        {"messages": [user("say it is what it is")]},
        {"messages": [user("call search shell")], "tools": TOOLS},
        {
            "messages": [user("count 40")],
            "max_tokens": 9,
            "stream_options": {"include_usage": True},
        },
        {"prompt": "abc", "max_tokens": 5},
    ],
)
def test_answers_are_byte_for_byte_the_same(
    server: Running, proxy: RunningProxy, more: dict[str, Any], stream: bool
) -> None:
    path = "/v1/completions" if "prompt" in more else CHAT
    body = {"model": "scripted", "temperature": 0, "stream": stream, **more}
    direct, proxied = both(server, proxy, body, path)
    assert direct.status_code == proxied.status_code == 200
    assert _OWN.sub(b"", direct.content) == _OWN.sub(b"", proxied.content)
    assert len(direct.content) > 100
    names = [
        {name for name in each.headers if name not in ("x-rlkv-session", "date")}
        for each in (direct, proxied)
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "nope", "messages": [user("hi")]}, 404),
        ({"model": "scripted", "messages": [user("long " * 5000)]}, 400),
        ({"model": "scripted", "messages": []}, 400),
        ({"model": "scripted", "messages": [user("hi")], "n": 2}, 400),
        ([], 400),
    ],
)
def test_errors_are_byte_for_byte_the_same(
    server: Running, proxy: RunningProxy, body: Any, status: int
) -> None:
    direct, proxied = both(server, proxy, body)
    assert direct.status_code == proxied.status_code == status
    assert direct.content == proxied.content and b'"error"' in direct.content
    assert len(proxy.proxy.turns.book) == 0


def test_errors_are_the_clients_own(proxy: RunningProxy) -> None:
    client = proxy.client()
    with pytest.raises(openai.NotFoundError, match="there is no model 'nope'"):
        chat(client, [user("hi")], model="nope")
    with pytest.raises(openai.BadRequestError) as error:
        chat(client, [user("long " * 5000)])
    assert error.value.code == "context_length_exceeded"
    assert client.models.list().data[0].id == "scripted"


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_is_one_session(server: Running, proxy: RunningProxy, stream: bool) -> None:
    client = proxy.client()
    messages = [user("call shell")]
    names, tools = set(), []
    for _ in range(3):
        if stream:
            with client.chat.completions.stream(
                model="scripted", temperature=0, messages=messages, tools=TOOLS
            ) as events:
                completion = events.get_final_completion()
        else:
            completion = chat(client, messages, tools=TOOLS)
        (session,) = proxy.proxy.turns.book._sessions.values()
        proxy.wait_until(lambda metrics: metrics['sessions{state="paused"}'] == 1)
        names.add(session.name)
        tools.append(session.tool)
        assert completion.session_id == session.name  # the server was told
        messages = answered(messages, completion)
        if completion.choices[0].message.tool_calls:
            messages += [tool_result(completion, "done")]
        else:
            messages += [user("say on")]
    assert len(names) == 1
    assert tools == ["shell", "human", "human"]
    assert text_of(completion) == "on"
    metrics = proxy.metrics()
    assert metrics['resumes_total{by="proxy"}'] == 2
    assert metrics['turns_total{end="tool"}'] == 1


def test_a_stream_that_is_left_leaves_nothing(server: Running, proxy: RunningProxy) -> None:
    client = proxy.client()
    for events in (1, 4, 9):
        stream = streaming(client, [user("count 2000")])
        for _ in range(events):
            next(stream)
        stream.close()
    server.wait_until(lambda figures: figures.running_sessions == 0)
    metrics = proxy.wait_until(lambda metrics: metrics["backend_requests"] == 0)
    assert metrics['turns_total{end="abandoned"}'] == 3
    assert len(proxy.proxy.turns.book) == 0
    assert text_of(chat(client, [user("say still here")])) == "still here"


@pytest.mark.slow
def test_64_sessions_at_once(server: Running, proxy: RunningProxy) -> None:
    async def agent(client: Any, index: int) -> str:
        messages: list[Any] = [user(f"call tool-{index}")]
        names = set()
        for _ in range(2):
            raw = await client.chat.completions.with_raw_response.create(
                model="scripted", temperature=0, messages=messages, tools=TOOLS[:1]
            )
            names.add(raw.headers["x-rlkv-session"])
            message = raw.parse().choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            for call in message.tool_calls or ():
                messages.append(
                    {"role": "tool", "tool_call_id": call.id, "content": call.function.name}
                )
        assert message.content == f"The tool says tool-{index}."
        (name,) = names
        return str(name)

    async def all_agents() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{proxy.url}/v1", api_key="x", max_retries=0, timeout=PATIENCE_S
        ) as client:
            return await asyncio.gather(*(agent(client, index) for index in range(64)))

    assert len(set(asyncio.run(all_agents()))) == 64
    metrics = proxy.metrics()
    assert metrics['resumes_total{by="proxy"}'] == 64
    assert metrics["errors_total"] == 0
