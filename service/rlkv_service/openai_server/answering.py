"""How one request is answered: prepared, sent to the engine's thread, and written back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING

from fastapi import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from rlkv_engine.errors import InputError
from rlkv_engine.paged.sampling import Sampling
from rlkv_service.openai_server.deltas import Delta
from rlkv_service.openai_server.engine_thread import EngineThread
from rlkv_service.openai_server.errors import ApiError
from rlkv_service.openai_server.generation import Generation
from rlkv_service.openai_server.prepare import Prepared, prepare_chat, prepare_completion
from rlkv_service.openai_server.protocol import ChatRequest, CompletionRequest, GenerationRequest
from rlkv_service.openai_server.responses import Answer, json_response, stream_events
from rlkv_service.openai_server.serving import Serving

if TYPE_CHECKING:
    from rlkv_engine.paged.loading import LoadedModel


class Answering:
    """Answers requests.

    Args:
        loaded: whose name clients must say.
        thread: carries out what is asked of ``serving``.
        serving: the engine.
        tokenizing: runs templates and tokenizer beside the event loop, one at a time: a tokenizer
            need not be good for several threads.

    Raises:
        InputError: the model has no tokenizer.
    """

    def __init__(
        self, loaded: LoadedModel, thread: EngineThread, serving: Serving, tokenizing: Executor
    ) -> None:
        if loaded.tokenizer is None:
            raise InputError(f"model {loaded.name!r} has no tokenizer: it cannot be served")
        self._loaded, self._thread, self._serving = loaded, thread, serving
        self._tokenizer, self._tokenizing = loaded.tokenizer, tokenizing
        eos = loaded.tokenizer.eos_token_id
        self._stop_tokens = frozenset(loaded.config.eos_token_ids) | ({eos} - {None})

    async def chat(self, http: Request, request: ChatRequest, header: str | None) -> Response:
        """Answers ``/v1/chat/completions``; ``header`` is the session it names."""
        prepare = partial(prepare_chat, self._tokenizer, request)
        return await self._answer(http, request, header, prepare)

    async def complete(
        self, http: Request, request: CompletionRequest, header: str | None
    ) -> Response:
        """Answers ``/v1/completions``."""
        vocab_size = self._loaded.config.vocab_size
        prepare = partial(prepare_completion, self._tokenizer, request, vocab_size)
        return await self._answer(http, request, header, prepare)

    async def _answer(
        self,
        http: Request,
        request: GenerationRequest,
        header: str | None,
        prepare: Callable[[], Prepared],
    ) -> Response:
        self._check(request, header)
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self._tokenizing, prepare)
        generation = Generation(
            prompt=prepared.prompt,
            max_new_tokens=prepared.max_new_tokens,
            sampling=_sampling(request),
            stop_tokens=self._stop_tokens,
            turn=prepared.turn,
            session_id=request.session_id or header,
        )
        begun = self._thread.call(partial(self._serving.begin, generation))
        session_id = await asyncio.wrap_future(begun)
        answer = Answer(self._loaded.name, isinstance(request, ChatRequest), session_id)
        headers = {"x-session-id": session_id}
        abort = partial(self._thread.call, partial(self._serving.abort, generation))
        if request.stream:
            events = stream_events(answer, generation, request.wants_usage)
            return _EventStream(events, headers, abort)
        deltas = await _collect(http, generation, abort)
        assert generation.finished is not None
        reason, usage = generation.finished.reason, generation.finished.usage
        return json_response(answer.whole(deltas, reason, usage), headers=headers)

    def _check(self, request: GenerationRequest, header: str | None) -> None:
        if request.model != self._loaded.name:
            reason = f"there is no model {request.model!r}, this server has {self._loaded.name!r}"
            raise ApiError(404, reason, param="model", code="model_not_found")
        request.refuse_unsupported()
        if request.session_id and header and request.session_id != header:
            reason = f"session_id is {request.session_id!r}, the header x-session-id {header!r}"
            raise ApiError(400, reason, param="session_id")


class _EventStream(StreamingResponse):
    """Ends what produces the events when the client goes."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[bytes], headers: dict[str, str], abort: Callable[[], object]
    ) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache", **headers})
        self._abort = abort

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Of a turn that is over it does nothing.
            self._abort()


async def _collect(
    http: Request, generation: Generation, abort: Callable[[], object]
) -> list[Delta]:
    """The whole answer; a client that goes meanwhile ends it."""

    async def watch() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass
        abort()

    watching = asyncio.create_task(watch())
    try:
        return [delta async for deltas in generation.deltas() for delta in deltas]
    finally:
        watching.cancel()


def _sampling(request: GenerationRequest) -> Sampling:
    temperature = 1.0 if request.temperature is None else request.temperature
    top_p = 1.0 if request.top_p is None else request.top_p
    return Sampling(temperature, top_p, request.seed)
