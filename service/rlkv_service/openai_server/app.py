"""The HTTP application: which request goes where, and what becomes of errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rlkv_engine.paged.engine import PagedEngine
from rlkv_service.openai_server.answering import Answering
from rlkv_service.openai_server.engine_thread import EngineThread
from rlkv_service.openai_server.errors import ApiError
from rlkv_service.openai_server.guards import KeyGuard
from rlkv_service.openai_server.metrics import Metrics
from rlkv_service.openai_server.options import ServerOptions
from rlkv_service.openai_server.protocol import ChatRequest, CompletionRequest, SessionId
from rlkv_service.openai_server.responses import json_response
from rlkv_service.openai_server.serving import Serving, SessionLimits
from rlkv_service.web_server.body_limit import BodyLimit

if TYPE_CHECKING:
    from rlkv_engine.paged.loading import LoadedModel

SessionHeader = Annotated[SessionId | None, Header(alias="x-session-id")]


def create_app(
    loaded: LoadedModel,
    engine: PagedEngine,
    options: ServerOptions | None = None,
    now_s: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """A server in front of an engine, which belongs to it from now on.

    Args:
        loaded: the engine's model.
        engine: closed when the application ends.
        options: limits and key.
        now_s: a clock, seconds; by it sessions are idle.

    Returns:
        The ASGI application; ``app.state`` has its ``thread`` and its ``serving``.
    """
    options = options or ServerOptions()
    metrics = Metrics()
    limits = SessionLimits(options.max_sessions, options.session_idle_s)
    max_tokens = loaded.config.max_position_embeddings
    serving = Serving(engine, max_tokens, limits, metrics, now_s)
    thread = EngineThread(serving)
    tokenizing = ThreadPoolExecutor(1, thread_name_prefix="rlkv-tokenizer")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        thread.start()
        try:
            yield
        finally:
            thread.stop()
            tokenizing.shutdown()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.state.thread, app.state.serving = thread, serving
    app.add_middleware(
        BodyLimit, max_bytes=options.max_body_bytes, refusal=_too_large, response=_response
    )
    if options.api_key is not None:
        app.add_middleware(KeyGuard, api_key=options.api_key)
    _add_generation(app, Answering(loaded, thread, serving, tokenizing))
    _add_models(app, loaded)
    _add_operations(app, thread, serving, metrics)
    _add_errors(app, metrics)
    return app


def _add_generation(app: FastAPI, answering: Answering) -> None:
    @app.post("/v1/completions")
    async def complete(
        http: Request, request: CompletionRequest, session: SessionHeader = None
    ) -> Response:
        return await answering.complete(http, request, session)

    @app.post("/v1/chat/completions")
    async def chat(http: Request, request: ChatRequest, session: SessionHeader = None) -> Response:
        return await answering.chat(http, request, session)


def _add_models(app: FastAPI, loaded: LoadedModel) -> None:
    model = {
        "id": loaded.name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "rlkv",
        "max_model_len": loaded.config.max_position_embeddings,
    }

    @app.get("/v1/models")
    async def list_models() -> Response:
        return json_response({"object": "list", "data": [model]})

    @app.get("/v1/models/{name:path}")
    async def show_model(name: str) -> Response:
        if name != loaded.name:
            reason = f"there is no model {name!r}, this server has {loaded.name!r}"
            raise ApiError(404, reason, param="model", code="model_not_found")
        return json_response(model)


def _add_operations(app: FastAPI, thread: EngineThread, serving: Serving, metrics: Metrics) -> None:
    @app.delete("/v1/sessions/{session_id:path}")
    async def end_session(session_id: str) -> Response:
        ended = thread.call(partial(serving.end_session, session_id))
        if not await asyncio.wrap_future(ended):
            raise ApiError(404, f"there is no session {session_id!r}", code="session_not_found")
        return json_response({"id": session_id, "object": "session", "deleted": True})

    @app.get("/health")
    async def health() -> Response:
        if thread.is_alive:
            return json_response({"status": "ok"})
        return json_response({"status": "the engine has stopped"}, 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        figures = await asyncio.wrap_future(thread.call(serving.figures))
        return Response(metrics.text(figures), media_type="text/plain; version=0.0.4")


def _add_errors(app: FastAPI, metrics: Metrics) -> None:
    def refuse(error: ApiError) -> Response:
        metrics.refusals.labels(error.code or "other").inc()
        return _response(error)

    @app.exception_handler(HTTPException)
    async def on_http_error(_: Request, error: HTTPException) -> Response:
        if not isinstance(error, ApiError):
            error = ApiError(error.status_code, error.detail)
        return refuse(error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, error: RequestValidationError) -> Response:
        return refuse(_problem(error))

    @app.exception_handler(Exception)
    async def on_bug(_: Request, error: Exception) -> Response:
        return refuse(ApiError(500, "an error of the server: see its log", code="internal_error"))


def _too_large(reason: str) -> ApiError:
    return ApiError(413, reason, code="body_too_large")


def _response(error: HTTPException) -> Response:
    assert isinstance(error, ApiError)
    return json_response(error.body(), error.status_code)


def _problem(error: RequestValidationError) -> ApiError:
    # Of the ways to read a field the one that leads furthest is the one that was meant.
    problem: dict[str, Any] = max(error.errors(), key=lambda each: len(each["loc"]))
    if problem["type"] == "json_invalid":
        reason = problem.get("ctx", {}).get("error", "")
        return ApiError(400, f"the body is not JSON: {reason}", code="invalid_json")
    # Without the names of types, which tell these ways apart.
    place = ".".join(
        str(part) for part in problem["loc"][1:] if part != "str" and "[" not in str(part)
    )
    reason = f"{place}: {problem['msg']}" if place else _NO_OBJECT
    return ApiError(400, reason, param=place or None, code="invalid_field")


_NO_OBJECT = "the body must be a JSON object, and the content-type application/json"
