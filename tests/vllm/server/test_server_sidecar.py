"""A real sidecar behind a real server: it decides, and serving goes on where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rlkv.real_vllm.server import MODEL, VllmServer
from tests.vllm.server.agent import Agent
from tests.vllm.server.deployment import NUM_NUDGES, Deployment, answered, event, nudge

FUNCTION = {
    "name": "look_up_city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
CALL = '<tool_call>\n{"name": "look_up_city", "arguments": {"city": "Rome"}}\n</tool_call>'


def until(server: VllmServer, is_so: Callable[[], bool]) -> None:
    for _ in range(NUM_NUDGES):
        if is_so():
            return
        nudge(server)
    raise AssertionError("it never comes to that")


def test_the_sidecar_decides_and_hears_what_came_of_it(
    deployment: Deployment, plugged: VllmServer
) -> None:
    before = answered(plugged)
    agent = Agent(plugged, "asks", 40)
    for _ in range(4):
        agent.turn(200)
    until(plugged, lambda: answered(plugged) >= before + 4)
    assert agent.answer == agent.uncached_answer()
    agent.end()
    until(plugged, lambda: event(plugged, "outcomes_written") >= 4)
    figures = deployment.log_figures()
    assert figures["num_decisions"] >= 4
    assert "search" in [row["tool"] for row in figures["tools"]]


@pytest.mark.parametrize("fault", ["stopped", "killed"])
def test_serving_goes_on_without_the_sidecar(
    deployment: Deployment, plugged: VllmServer, fault: str
) -> None:
    agent = Agent(plugged, f"sidecar-{fault}", 50)
    agent.turn(200)
    fallback = event(plugged, "fallback")
    if fault == "stopped":
        deployment.sidecar.suspend()
    else:
        deployment.sidecar.kill()
    try:
        for _ in range(3):
            agent.turn(50)
        until(plugged, lambda: event(plugged, "fallback") >= fallback + 3)
        assert agent.answer == agent.uncached_answer()
    finally:
        if fault == "stopped":
            deployment.sidecar.resume()
        else:
            deployment.restart_sidecar()
    before = answered(plugged)

    def is_answered() -> bool:
        agent.turn(1, 1)
        return answered(plugged) > before

    until(plugged, is_answered)
    agent.end()


def test_a_tool_is_known_by_the_call_that_the_model_makes(
    deployment: Deployment, plugged: VllmServer
) -> None:
    # The session is vLLM's own field, and nobody says which tool it is.
    messages: list[dict[str, Any]] = [{"role": "user", "content": "the weather in the capital"}]
    first = _chat(plugged, messages, structured_outputs={"choice": [CALL]})
    (choice,) = first["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "look_up_city"
    messages += [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "sun and wind"},
    ]
    _chat(plugged, messages)
    until(
        plugged,
        lambda: "look_up_city" in [row["tool"] for row in deployment.log_figures()["tools"]],
    )


def _chat(server: VllmServer, messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    body = {
        "model": MODEL,
        "messages": messages,
        "tools": [{"type": "function", "function": FUNCTION}],
        "max_tokens": 200 if more else 8,
        "temperature": 0.0,
        "session_id": "chat-with-a-tool",
    }
    return server.post("/v1/chat/completions", body | more)
