"""Many clients, clients that go, and an engine that crashes: nothing hangs, nothing is left."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import openai
import pytest

from rlkv_engine.paged.engine import Token
from tests.service.openai_server.chats import TOOLS, chat, streaming, user
from tests.service.openai_server.running_server import PATIENCE_S, Running, running_server
from tests.service.openai_server.scripted_model import encode

COUNT = [user("count 2000")]


def numbers(count: int) -> str:
    return " ".join(map(str, range(count)))


async def agent(client: Any, index: int) -> tuple[str, list[str]]:
    """One session of three turns, of which one calls a tool: its name, and what it was told."""
    # Every first message is another one: sessions that have said the same cannot be told apart.
    messages: list[Any] = [user(f"call tool-{index}")]
    names, said = set(), []
    options: dict[str, Any] = {"extra_body": {"session_id": f"agent-{index}"}} if index % 2 else {}
    for _ in range(3):
        completion = await client.chat.completions.create(
            model="scripted", temperature=0, messages=messages, tools=TOOLS[:1], **options
        )
        message = completion.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        names.add(completion.session_id)
        if message.tool_calls:
            (call,) = message.tool_calls
            messages.append(
                {"role": "tool", "tool_call_id": call.id, "content": call.function.name}
            )
        else:
            said.append(message.content)
            messages.append(user(f"count {9 + index % 9}"))
    (name,) = names
    return name, said


@pytest.mark.slow
def test_64_sessions_at_once_under_short_memory() -> None:
    # They share their first 16 blocks, and come to hold about 9 more each: twice the pool.
    with running_server(rule="swap", num_device_blocks=300, num_host_blocks=200) as server:

        async def all_agents() -> list[tuple[str, list[str]]]:
            async with openai.AsyncOpenAI(
                base_url=f"{server.url}/v1", api_key="x", max_retries=0, timeout=PATIENCE_S
            ) as client:
                return await asyncio.gather(*(agent(client, index) for index in range(64)))

        ended = asyncio.run(all_agents())
        assert len({name for name, _ in ended}) == 64
        for index, (name, said) in enumerate(ended):
            assert said == [f"The tool says tool-{index}.", numbers(9 + index % 9)]
            assert httpx.delete(f"{server.url}/v1/sessions/{name}").status_code == 200
        metrics = httpx.get(f"{server.url}/metrics").text
        assert "rlkv_engine_begun_sessions_total 64.0" in metrics
        assert 'rlkv_engine_turns_total{reason="tool_calls"} 64.0' in metrics
        server.assert_nothing_is_left()


def test_streams_that_are_left_leave_nothing(server: Running) -> None:
    client = server.client()
    for events in range(1, 30, 3):
        stream = streaming(client, COUNT)
        for _ in range(events):
            next(stream)
        stream.close()
    server.wait_until(lambda figures: figures.running_sessions == 0)
    server.assert_nothing_is_left()


def test_clients_that_wait_for_a_whole_answer_and_go_leave_nothing(server: Running) -> None:
    impatient = server.client().with_options(timeout=0.3)
    with pytest.raises(openai.APITimeoutError):
        chat(impatient, [user("count 1000")])
    server.wait_until(lambda figures: figures.running_sessions == 0)
    server.assert_nothing_is_left()
    assert 'ended_sessions_total{reason="abandoned"}' in httpx.get(f"{server.url}/metrics").text


def test_clients_that_go_while_their_session_waits_leave_nothing() -> None:
    # The first one takes the whole pool, the second waits for it.
    with running_server(num_device_blocks=40) as server:
        client = server.client()
        first = streaming(client, [user("count 140")])
        next(first)
        second = client.completions.create(
            model="scripted", prompt=[9] * 620, max_tokens=9, temperature=0, stream=True
        )
        server.wait_until(lambda figures: figures.running_sessions == 2)
        second.close()
        server.wait_until(lambda figures: figures.running_sessions == 1)
        assert "".join(c.choices[0].delta.content or "" for c in first) == numbers(140)
        (name,) = [s.session_id for s in server.serving._book._paused.values()]
        httpx.delete(f"{server.url}/v1/sessions/{name}")
        server.assert_nothing_is_left()


def test_an_idle_server_does_nothing(server: Running) -> None:
    chat(server.client(), [user("say one")])
    server.wait_until(lambda _: server.engine.idle_s > 0)
    steps = server.thread.num_steps
    server.figures()
    assert server.thread.num_steps <= steps + 2
    steps = server.thread.num_steps
    threading.Event().wait(0.2)
    # The call before may have ended after it was answered.
    assert server.thread.num_steps <= steps + 1


def test_a_request_sleeps_until_there_is_memory_for_it() -> None:
    # Under this rule nobody takes the blocks of a session that is paused.
    with running_server(rule="preserve", num_device_blocks=24) as server:
        client = server.client()
        chat(client, [user("count 90")], extra_body={"session_id": "holds"})
        waiting = client.completions.create(
            model="scripted", prompt=encode("a" * 320), max_tokens=2, temperature=0, stream=True
        )
        server.wait_until(lambda _: server.engine.idle_s > 0)
        steps = server.thread.num_steps
        threading.Event().wait(0.2)
        assert server.thread.num_steps <= steps + 2
        assert server.figures().running_sessions == 1
        assert httpx.delete(f"{server.url}/v1/sessions/holds").status_code == 200
        assert "".join(chunk.choices[0].text for chunk in waiting) == "bc"


def test_a_crash_fails_everything_and_shows(caplog: pytest.LogCaptureFixture) -> None:
    with running_server() as server:
        client = server.client()
        stream = streaming(client, COUNT)
        next(stream)

        def crash() -> list[Token]:
            raise MemoryError("no more")

        server.engine.step = crash  # type: ignore[method-assign]
        with pytest.raises(openai.APIError, match="the engine has crashed"):
            list(stream)
        for _ in range(2):
            with pytest.raises(openai.InternalServerError, match="the engine has crashed"):
                chat(client, [user("hello")])
        assert httpx.get(f"{server.url}/health").status_code == 503
        assert httpx.get(f"{server.url}/metrics").status_code == 500
        assert "MemoryError: no more" in caplog.text


def test_a_crash_fails_whoever_waits_for_a_whole_answer(caplog: pytest.LogCaptureFixture) -> None:
    with running_server() as server:
        client = server.client()
        original = server.engine.add_session

        def crash(*args: Any, **options: Any) -> int:
            original(*args, **options)
            raise RuntimeError("a bug")

        server.engine.add_session = crash  # type: ignore[method-assign]
        with pytest.raises(openai.InternalServerError, match="the engine has crashed"):
            chat(client, [user("hello")])
        assert httpx.get(f"{server.url}/health").status_code == 503
        assert "RuntimeError: a bug" in caplog.text


def test_an_answer_that_is_no_text_fails_alone(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    client = server.client()
    stream = streaming(client, COUNT)
    next(stream)
    (running,) = server.serving._running.values()

    def fail(*_: object) -> list[Any]:
        raise ValueError("no text")

    running.generation.turn.push = fail  # type: ignore[assignment, method-assign]
    with pytest.raises(openai.APIError, match="the answer cannot be turned into text"):
        list(stream)
    assert chat(client, [user("say on")]).choices[0].message.content == "on"
    assert "ValueError: no text" in caplog.text


def test_a_server_that_stops_fails_what_is_open() -> None:
    with running_server() as server:
        stream = streaming(server.client(), COUNT)
        next(stream)
        server.thread.stop()
        with pytest.raises(openai.APIError, match="the server is shutting down"):
            list(stream)
        assert httpx.get(f"{server.url}/health").status_code == 503


def test_what_is_counted_has_no_tokens_too_many(server: Running) -> None:
    def generated() -> float:
        metrics = httpx.get(f"{server.url}/metrics").text
        (line,) = [
            s for s in metrics.splitlines() if "generated_tokens_total " in s and s[0] != "#"
        ]
        return float(line.split()[1])

    before = generated()
    chat(server.client(), [user("say so it is")])
    assert generated() == before + len(encode("so it is")) + 1
