"""Plays traffic to a server: sessions come when they come, whatever the server is at."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from rlkv.real_vllm.server import cached_of, completion
from rlkv.real_vllm.traffic import Session, Turn
from rlkv_engine.errors import RlkvError

_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class TurnSeen:
    """What a client has seen of one turn.

    Times are from the moment at which it is due, which is when the session arrives or its tool
    returns: who sends late waits too.
    """

    session: str
    is_agent: bool
    turn: int
    prompt_tokens: int
    cached_tokens: int  #: of the prompt
    output_tokens: int
    pause_s: float  #: after it
    first_token_s: float
    took_s: float


@dataclass(frozen=True, slots=True)
class Played:
    """All turns of some traffic, in the order in which they ended, and how long it all took."""

    turns: Sequence[TurnSeen]
    took_s: float


def play(
    url: str, sessions: Sequence[Session], on_turn: Callable[[], None] = lambda: None
) -> Played:
    """Plays sessions in real time, each agent's turns under its name.

    The tool that an answer calls travels with the request: random weights do not call any.

    Args:
        url: of the server.
        sessions: agents and strangers.
        on_turn: called at the end of each turn.

    Raises:
        RlkvError: the server refuses a request or is gone.
    """
    return asyncio.run(_play(url, sessions, on_turn))


async def _play(url: str, sessions: Sequence[Session], on_turn: Callable[[], None]) -> Played:
    seen: list[TurnSeen] = []
    start_s = time.monotonic()

    async def run(session: Session) -> None:
        context: list[int] = []
        due_s = start_s + session.arrival_s
        for number, turn in enumerate(session.turns):
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            prompt = context[: turn.kept_tokens] + list(turn.new_tokens)
            answered = await _ask(client, prompt, turn, session, number)
            context = prompt + answered.tokens
            seen.append(
                TurnSeen(
                    session.name,
                    session.is_agent,
                    number,
                    len(prompt),
                    answered.cached_tokens,
                    len(answered.tokens),
                    turn.pause_s,
                    answered.first_token_s - due_s,
                    answered.ended_s - due_s,
                )
            )
            on_turn()
            due_s = answered.ended_s + turn.pause_s

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    try:
        async with (
            httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            for session in sessions:
                group.create_task(run(session))
    except ExceptionGroup as errors:  # not except*, in which Python 3.11.2 wraps what is raised
        failed, others = errors.split(httpx.HTTPError)
        if failed is None or others is not None:
            raise
        raise RlkvError(f"the server under load: {failed.exceptions[0]!r}") from errors
    return Played(seen, time.monotonic() - start_s)


@dataclass(slots=True)
class _Answered:
    tokens: list[int]
    cached_tokens: int = 0
    first_token_s: float = 0.0
    ended_s: float = 0.0


async def _ask(
    client: httpx.AsyncClient, prompt: list[int], turn: Turn, session: Session, number: int
) -> _Answered:
    body = completion(prompt, turn.output_tokens) | {
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if session.is_agent:
        body |= said_of(session.name, number, turn.tool)
    answered = _Answered([])
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event: dict[str, Any] = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise httpx.ReadError(str(event["error"]))
            for choice in event.get("choices") or ():
                tokens = choice.get("token_ids") or ()
                if tokens and not answered.tokens:
                    answered.first_token_s = time.monotonic()
                answered.tokens += tokens
            if event.get("usage"):
                answered.cached_tokens = cached_of(event)
    answered.ended_s = time.monotonic()
    if len(answered.tokens) != turn.output_tokens:
        raise httpx.ReadError(
            f"{len(answered.tokens)} tokens of {session.name}, not {turn.output_tokens}"
        )
    return answered


def said_of(session: str, turn: int, tool: str = "", **more: Any) -> Mapping[str, Any]:
    """Fields of a request that tell the plug-in whose it is, and which tool its answer calls."""
    said: dict[str, Any] = {"session": session, "turn": turn, **more}
    if tool:
        said["tool"] = tool
    return {"kv_transfer_params": {"rlkv": said}}
