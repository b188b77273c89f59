"""The HTTP application: which request goes where, and what becomes of errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rlkv_service.decision_api import operations
from rlkv_service.decision_api.answering import JSON, Answering
from rlkv_service.decision_api.direct_route import DirectRoute
from rlkv_service.decision_api.guards import TokenGuard
from rlkv_service.decision_api.http_figures import HttpFigures
from rlkv_service.decision_api.live_feed import LiveFeed
from rlkv_service.decision_api.live_figures import LiveFigures
from rlkv_service.decision_api.live_page import page_response
from rlkv_service.decision_api.openapi_document import describe
from rlkv_service.decision_api.options import ApiOptions
from rlkv_service.decision_api.problems import Problem, problem_response
from rlkv_service.decision_api.prometheus import PROMETHEUS_TYPE, prometheus_text
from rlkv_service.decision_api.tokens import TokenFile
from rlkv_service.sidecar.service import DecisionService
from rlkv_service.web_server.body_limit import BodyLimit


def make_app(service: DecisionService, options: ApiOptions | None = None) -> FastAPI:
    """A decision API in front of a service, for ``web_server.running``.

    Args:
        service: that decides; it is not closed with the application.
        options: limits, and who may ask.

    Returns:
        The ASGI application; ``app.state.feed.close`` ends what would never end by itself.

    Raises:
        InputError: the file of tokens cannot be read.
    """
    options = options or ApiOptions()
    tokens = None if options.token_file is None else TokenFile(options.token_file)
    answering, http = Answering(service), HttpFigures()
    feed = LiveFeed(LiveFigures(service), options.max_listeners)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        feed.start()
        try:
            yield
        finally:
            await feed.stop()
            answering.close()

    app = FastAPI(
        title="rlkv decision API",
        description=operations.DESCRIPTION,
        version="1",
        lifespan=lifespan,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.router.route_class = DirectRoute
    app.state.feed = feed
    _add_decisions(app, answering)
    _add_operations(app, answering, http, service, tokens)
    _add_live(app, feed)
    _add_errors(app)
    describe(app, asks_for_tokens=tokens is not None)
    app.add_middleware(
        BodyLimit,
        max_bytes=options.max_body_bytes,
        refusal=lambda reason: Problem("too-large", reason),
        response=problem_response,
    )
    if tokens is not None:
        app.add_middleware(TokenGuard, tokens=tokens, requests_per_s=options.requests_per_s)
    app.add_middleware(http.middleware)
    return app


def _add_decisions(app: FastAPI, answering: Answering) -> None:
    app.post("/v1/decisions", **operations.DECIDE)(answering.decide)
    app.post("/v1/outcomes", **operations.RECORD)(answering.record)
    app.delete("/v1/sessions/{session_id:path}", **operations.END)(answering.end)
    app.get("/v1/policy", **operations.POLICY)(answering.policy)


def _add_operations(
    app: FastAPI,
    answering: Answering,
    http: HttpFigures,
    service: DecisionService,
    tokens: TokenFile | None,
) -> None:
    @app.get("/healthz", **operations.HEALTH)
    async def health(_: Request) -> Response:
        return Response(b'{"status":"ok"}', media_type=JSON)

    @app.get("/readyz", **operations.READY)
    async def ready(_: Request) -> Response:
        reasons = [await answering.ready(), tokens.problem if tokens is not None else None]
        told = "; ".join(reason for reason in reasons if reason)
        if told:
            raise Problem("not-ready", told, retry_after_s=1.0)
        return Response(msgspec.json.encode({"status": "ok"}), media_type=JSON)

    @app.get("/metrics", **operations.METRICS)
    async def metrics(_: Request) -> Response:
        return PlainTextResponse(prometheus_text(service, http), media_type=PROMETHEUS_TYPE)


def _add_live(app: FastAPI, feed: LiveFeed) -> None:
    @app.get("/", **operations.PAGE)
    async def page(_: Request) -> Response:
        return page_response()

    @app.get("/v1/events", **operations.EVENTS)
    async def events(_: Request) -> Response:
        return feed.response()


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def on_http_error(_: Request, error: HTTPException) -> Response:
        return problem_response(error)

    @app.exception_handler(Exception)
    async def on_bug(_: Request, error: Exception) -> Response:
        return problem_response(Problem("internal", "an error of the server: see its log"))
