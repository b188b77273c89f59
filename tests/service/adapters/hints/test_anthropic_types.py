"""The anthropic SDK's own types and client, beside a server that writes down what it is sent."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from rlkv_service.adapters.hints import BACKENDS, Served, with_fields
from rlkv_service.schema import Verb
from tests.service.adapters.hints.made_pauses import pause_of

# Not imported before a test needs it: it takes seconds.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("anthropic") is None, reason="the anthropic SDK is not installed"
)

BODY: dict[str, Any] = {
    "model": "claude", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}],
}  # fmt: skip
ANSWER: dict[str, Any] = {
    "id": "m", "type": "message", "role": "assistant", "model": "claude", "content": [],
    "stop_reason": "end_turn", "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}  # fmt: skip


@pytest.fixture
def sent() -> Iterator[tuple[str, list[Any]]]:
    """The address of a server, and the bodies that it was sent."""
    bodies: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            told = json.dumps(ANSWER).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", bodies
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("p90_s", "ttl"), [(60.0, "5m"), (900.0, "1h")])
def test_a_cache_time_is_a_type_of_the_sdk_and_is_sent(
    sent: tuple[str, list[Any]], p90_s: float, ttl: str
) -> None:
    from anthropic.types import CacheControlEphemeralParam
    from anthropic.types.message_create_params import MessageCreateParamsBase
    from pydantic import TypeAdapter

    hints = BACKENDS["anthropic"](pause_of(Verb.PRESERVE, expected_return_p90_s=p90_s), Served())
    assert hints.fields.keys() <= MessageCreateParamsBase.__annotations__.keys()
    assert hints.fields["cache_control"].keys() <= CacheControlEphemeralParam.__annotations__.keys()
    TypeAdapter(CacheControlEphemeralParam).validate_python(hints.fields["cache_control"])
    url, bodies = sent
    import anthropic

    with anthropic.Anthropic(base_url=url, api_key="none") as client:
        client.messages.create(**with_fields(BODY, hints))
    assert bodies[0]["cache_control"] == {"type": "ephemeral", "ttl": ttl}


def test_a_client_that_marks_blocks_itself_is_left_alone() -> None:
    hints = BACKENDS["anthropic"](pause_of(Verb.PRESERVE), Served())
    mark = {"cache_control": {"type": "ephemeral"}}
    for marked in (
        {"system": [{"type": "text", "text": "a", **mark}]},
        {"tools": [{"name": "search", "input_schema": {}, **mark}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", **mark}]}]},
        {"cache_control": {"type": "ephemeral", "ttl": "5m"}},
    ):
        assert with_fields(BODY | marked, hints) == BODY | marked
