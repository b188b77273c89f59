"""One request between the engine's thread and the event loop that answers it."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from rlkv_engine.paged.sampling import Sampling
from rlkv_service.openai_server.deltas import Delta
from rlkv_service.openai_server.errors import ApiError
from rlkv_service.openai_server.turn import FinishReason, Turn


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one turn."""

    prompt_tokens: int
    cached_tokens: int  #: those of the prompt that did not have to be computed
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is over."""

    reason: FinishReason
    usage: Usage


Event = list[Delta] | Finished | ApiError


@dataclass(slots=True, eq=False)
class Generation:
    """What is asked of the engine, and the way its answer takes; made in the event loop."""

    prompt: array[int]
    max_new_tokens: int | None  #: None: as many as there is room for
    sampling: Sampling
    stop_tokens: frozenset[int]
    turn: Turn
    session_id: str | None
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    finished: Finished | None = None
    _events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)

    async def deltas(self) -> AsyncIterator[list[Delta]]:
        """The answer as it comes; ``finished`` is there when it ends.

        Raises:
            ApiError: it will not be finished.
        """
        while self.finished is None:
            event = await self._events.get()
            if isinstance(event, ApiError):
                raise event
            if isinstance(event, Finished):
                self.finished = event
            elif event:
                yield event

    def _put(self, event: Event) -> None:
        self._events.put_nowait(event)


def deliver(events: Iterable[tuple[Generation, Event]]) -> None:
    """Hands events over to the loops that wait for them, from another thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Generation, Event]]] = {}
    for generation, event in events:
        by_loop.setdefault(generation.loop, []).append((generation, event))
    for loop, own in by_loop.items():
        # A loop that has ended waits for nothing.
        if not loop.is_closed():
            loop.call_soon_threadsafe(_put_all, own)


def _put_all(events: list[tuple[Generation, Event]]) -> None:
    for generation, event in events:
        generation._put(event)
