"""What a server does not take, and what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from rlkv_engine.errors import InputError
from rlkv_service.openai_server.options import ServerOptions
from tests.service.openai_server.chats import TOOLS, chat, text_of, user
from tests.service.openai_server.running_server import Running, running_server

HELLO = [user("hello")]


def refusal(error: pytest.ExceptionInfo[openai.APIStatusError]) -> tuple[Any, ...]:
    """Status, type, parameter and code."""
    return error.value.status_code, error.value.type, error.value.param, error.value.code


def test_a_wrong_model_name(server: Running) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-9', this server has") as error:
        chat(server.client(), HELLO, model="gpt-9")
    assert refusal(error) == (404, "not_found_error", "model", "model_not_found")


def test_a_prompt_that_is_too_long_for_the_model() -> None:
    with running_server(max_tokens=200) as server:
        client = server.client()
        expected = r"a prompt of 190 tokens with up to 11 of output is longer than the model's 200"
        with pytest.raises(openai.BadRequestError, match=expected) as error:
            client.completions.create(model="scripted", prompt=[9] * 190, max_tokens=11)
        assert refusal(error) == (400, "invalid_request_error", None, "context_length_exceeded")
        # Without max_tokens there is room for one at least.
        expected = r"a prompt of 2\d\d tokens with up to 1 of output .* model's 200"
        with pytest.raises(openai.BadRequestError, match=expected):
            chat(client, [user("x" * 200)])
        # And if there is more, it is all for the answer.
        said = chat(client, [user("count 300")])
        assert (said.usage.total_tokens, said.choices[0].finish_reason) == (200, "length")


def test_a_pool_too_small_for_one_session() -> None:
    with running_server(num_device_blocks=10) as server:
        client = server.client()
        expected = r"needs 13 blocks of 16 tokens, the device pool has 10"
        with pytest.raises(openai.BadRequestError, match=expected):
            client.completions.create(model="scripted", prompt=[9] * 190, max_tokens=11)
        # A session whose next turn is refused is as it was.
        named = {"session_id": "small"}
        assert text_of(chat(client, [user("say one")], extra_body=named)) == "one"
        with pytest.raises(openai.BadRequestError, match="the device pool has 10"):
            chat(client, HELLO, extra_body=named, max_tokens=500)
        assert text_of(chat(client, HELLO, extra_body=named)) == "You said: hello"
        assert server.figures().paused_sessions == 1


@pytest.mark.parametrize(
    ("options", "said", "param"),
    [
        ({"n": 2}, "n is 2, it may only be 1", "n"),
        ({"logprobs": True}, "logprobs is True, it may only be False", "logprobs"),
        ({"presence_penalty": 1.5}, "presence_penalty is 1.5", "presence_penalty"),
        ({"logit_bias": {"7": 1}}, "logit_bias is {'7': 1}", "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format is", "response_format"),
        (
            {"temperature": 2.5},
            "temperature: Input should be less than or equal to 2",
            "temperature",
        ),
        ({"top_p": 0}, "top_p: Input should be greater than 0", "top_p"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1", "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens: Input should be a valid integer", "max_tokens"),
        ({"messages": []}, "messages: List should have at least 1 item", "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role: ", "messages.0.role"),
        (
            {"messages": [{"role": "assistant"}]},
            "an assistant's message has content or tool_calls",
            "messages.0.content",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.type: Input should be 'text'",
            "messages.0.content.0.type",
        ),
        ({"tool_choice": "required"}, "tool_choice needs tools", "tool_choice"),
        (
            {
                "tools": TOOLS,
                "tool_choice": {"type": "function", "function": {"name": "fly"}},
            },
            "tool_choice names 'fly', tools has search, shell",
            "tool_choice",
        ),
        ({"extra_body": {"session_id": "a b"}}, "session_id: String should match", "session_id"),
        ({"extra_headers": {"x-session-id": "a b"}}, "x-session-id: String should match", None),
    ],
)
def test_fields_that_are_not_taken(
    server: Running, options: dict[str, Any], said: str, param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        chat(server.client(), options.pop("messages", HELLO), **options)
    assert said in error.value.message
    if param is not None:
        assert error.value.param == param


def test_fields_that_change_nothing_are_taken(server: Running) -> None:
    neutral = {
        "n": 1, "logprobs": False, "presence_penalty": 0, "frequency_penalty": 0.0,
        "response_format": {"type": "text"}, "user": "me", "store": False,
        "extra_body": {"chat_template_kwargs": {}, "logit_bias": {}},
    }  # fmt: skip
    assert text_of(chat(server.client(), HELLO, **neutral)) == "You said: hello"


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (["a", "b"], "2 prompts in one request, at most 1 is answered"),
        ([1, 512], "token 512 is none of this model's 512"),
        ([-1], "token -1 is none of this model's 512"),
        ("", "the prompt has no tokens"),
        ([], "the prompt has no tokens"),
        ([[]], "the prompt has no tokens"),
    ],
)
def test_prompts_that_are_none(server: Running, prompt: Any, said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as error:
        server.client().completions.create(model="scripted", prompt=prompt)
    assert error.value.param == "prompt"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"model": "scripted", ', "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b"[]", "invalid_field"),
        (b"", "invalid_field"),
        (b'{"model": "scripted"}', "invalid_field"),
        (b"[" * 100_000, None),
        (
            b'{"model": "scripted", "messages": [{"role": "user", "content": "\\ud800"}]}',
            "invalid_text",
        ),
        (b'{"model": "\\ud800", "messages": [{"role": "king"}]}', "invalid_field"),
    ],
)
def test_bodies_that_are_no_requests(server: Running, content: bytes, code: str | None) -> None:
    headers = {"content-type": "application/json"}
    url = f"{server.url}/v1/chat/completions"
    response = httpx.post(url, content=content, headers=headers)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["code"] == code, error


def test_tools_that_no_template_can_write(server: Running) -> None:
    deep: dict[str, Any] = {}
    for _ in range(600):
        deep = {"deeper": deep}
    tool = {"type": "function", "function": {"name": "f", "parameters": deep}}
    with pytest.raises(openai.BadRequestError, match="the chat template does not take"):
        chat(server.client(), HELLO, tools=[tool])


def test_addresses_that_are_none(server: Running) -> None:
    response = httpx.get(f"{server.url}/v1/nothing")
    assert (response.status_code, response.json()["error"]["message"]) == (404, "Not Found")
    response = httpx.get(f"{server.url}/v1/completions")
    assert (response.status_code, response.json()["error"]["param"]) == (405, None)


def test_bodies_that_are_too_large() -> None:
    with running_server(ServerOptions(max_body_bytes=900)) as server:
        client = server.client()
        assert text_of(chat(client, [user("say " + "x" * 200)])) == "x" * 200
        with pytest.raises(openai.APIStatusError, match="at most 900 bytes are read") as error:
            chat(client, [user("say " + "x" * 900)])
        assert refusal(error) == (413, "invalid_request_error", None, "body_too_large")

        def in_chunks() -> Iterator[bytes]:
            yield from [b"x" * 500] * 5

        response = httpx.post(
            f"{server.url}/v1/completions",
            content=in_chunks(),
            headers={"content-type": "application/json"},
        )
        assert response.status_code == 413
        assert json.loads(response.content)["error"]["code"] == "body_too_large"


def test_a_key() -> None:
    with running_server(ServerOptions(api_key="right")) as server:
        assert server.client("right").models.list().data[0].id == "scripted"
        with pytest.raises(openai.AuthenticationError, match="wrong or missing") as error:
            chat(server.client("wrong"), HELLO)
        assert refusal(error) == (401, "authentication_error", None, "invalid_api_key")
        for headers in ({}, {"authorization": "right"}, {"authorization": "Basic right"}):
            assert httpx.get(f"{server.url}/metrics", headers=headers).status_code == 401
        beyond_ascii = [(b"authorization", b"Bearer r\xefght")]
        assert httpx.get(f"{server.url}/metrics", headers=beyond_ascii).status_code == 401
        assert httpx.get(f"{server.url}/health").status_code == 200
    assert "right" not in repr(ServerOptions(api_key="right"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"api_key": ""}, "the API key is empty"),
        ({"api_key": "a\nb"}, "no HTTP header carries"),
        ({"max_sessions": 0}, "--max-sessions must be at least 1 .got 0"),
        ({"session_idle_s": 0.0}, "--session-idle-s must be above 0"),
        ({"session_idle_s": float("nan")}, "--session-idle-s must be above 0"),
        ({"max_body_bytes": 0}, "--max-body-bytes must be at least 1"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ServerOptions(**options)
