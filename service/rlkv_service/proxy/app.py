"""The ASGI application: its own paths, and all others to the backend."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from rlkv_service.client import AsyncioClient
from rlkv_service.decision_api.guards import TokenGuard
from rlkv_service.decision_api.problems import Problem
from rlkv_service.decision_api.prometheus import PROMETHEUS_TYPE
from rlkv_service.decision_api.tokens import TokenFile
from rlkv_service.proxy.backend_calls import BackendCalls
from rlkv_service.proxy.backend_facts import BackendFacts, names_of
from rlkv_service.proxy.figures import Figures, figures_text
from rlkv_service.proxy.forwarding import Forwarding
from rlkv_service.proxy.options import ProxyOptions
from rlkv_service.proxy.problems import openai_problem_response, send_problem
from rlkv_service.proxy.sidecar_link import SidecarLink
from rlkv_service.proxy.turns import Turns
from rlkv_service.proxy.upstream import Upstream
from rlkv_service.proxy.upstream_connection import UpstreamError
from rlkv_service.web_server.body_limit import BodyLimit

_log = logging.getLogger(__name__)

HEALTH_PATH, METRICS_PATH = "/rlkv/healthz", "/rlkv/metrics"
_OWN_PREFIX = "/rlkv/"
#: How often idle sessions are looked for, and the backend's metrics are read.
_TICK_S = 1.0
#: Of one token, where its line says nothing else: more than a proxy passes.
_REQUESTS_PER_S = 1e5


class Proxy:
    """The application while it runs; ``app`` is what a server serves.

    Args:
        options: where the backend is, and what is done for it.
    """

    def __init__(self, options: ProxyOptions) -> None:
        self._options = options
        self.figures = Figures()
        self.upstream = Upstream(options.url, options.connect_timeout_s, options.silence_timeout_s)
        self._servers = {"engine": self.upstream}
        if options.lmcache is not None:
            self._servers["lmcache"] = Upstream(options.lmcache, options.connect_timeout_s)
        self.calls = BackendCalls(self._servers, options.authorization)
        self.facts = BackendFacts(options.machine)
        self.sidecar: SidecarLink | None = None
        if options.redis is not None:
            client = AsyncioClient(
                options.redis, engine_id=options.engine_id, namespace=options.namespace
            )
            self.sidecar = SidecarLink(client)
        self.turns = Turns(options, self.figures, self.facts, self.calls, self.sidecar)
        self._forwarding = Forwarding(options, self.upstream, self.turns, self.figures)
        self.app: ASGIApp = BodyLimit(
            self._answer,
            options.max_body_bytes,
            lambda reason: Problem("too-large", reason),
            openai_problem_response,
        )
        if options.token_file is not None:
            tokens = TokenFile(options.token_file)
            self.app = TokenGuard(self.app, tokens, _REQUESTS_PER_S, (HEALTH_PATH,))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            try:
                if scope["path"].startswith(_OWN_PREFIX):
                    await self._own(scope)(scope, receive, send)
                else:
                    await self._forwarding(scope, receive, send)
            except Problem as problem:  # a body that is longer than it says
                await send_problem(problem, scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self._running():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if self.sidecar is not None:
                await stack.enter_async_context(self.sidecar)
            ticking = asyncio.create_task(self._tick())
            try:
                yield
            finally:
                ticking.cancel()
                await asyncio.wait([ticking])
                self.calls.close()
                for server in self._servers.values():
                    await server.close()

    async def _tick(self) -> None:
        while True:
            self.turns.end_idle()
            await self._read_facts()
            await asyncio.sleep(_TICK_S)

    async def _read_facts(self) -> None:
        names = names_of(self._options.backend)
        if self.sidecar is None or names is None:
            return
        headers = []
        if self._options.authorization is not None:
            headers.append((b"authorization", self._options.authorization))
        try:
            status, body = await self.upstream.ask("GET", names.path, headers)
        except UpstreamError:
            self.facts.forget()
            return
        if status == 200:
            self.facts.learn(names, body.decode(errors="replace"))
        else:
            self.facts.forget()

    def _own(self, scope: Scope) -> Response:
        if scope["path"] not in (HEALTH_PATH, METRICS_PATH):
            return openai_problem_response(
                Problem("not-found", f"{scope['path']}: the proxy has no such page")
            )
        if scope["method"] not in ("GET", "HEAD"):
            return openai_problem_response(
                Problem("method", f"{scope['path']} may only be read", headers={"Allow": "GET"})
            )
        if scope["path"] == METRICS_PATH:
            return Response(self._metrics(), media_type=PROMETHEUS_TYPE)
        reached = {True: "reached", False: "not reached", None: "not asked yet"}
        health = {"status": "ok", "backend": reached[self.upstream.is_reached]}
        if self.sidecar is not None:
            health["sidecar"] = self.sidecar.client.counts.last_error or "ok"
        return JSONResponse(health)

    def _metrics(self) -> bytes:
        book, upstream = self.turns.book, self.upstream
        self.figures.sessions.labels("paused").set(book.num_paused)
        self.figures.sessions.labels("running").set(len(book) - book.num_paused)
        self.figures.upstream.set(upstream.num_busy)
        totals = {
            "backend_connections": {"opened": upstream.num_connects},
            "backend_retries": {"sent_again": upstream.num_retries},
            "backend_calls": self.calls.counts,
        }
        client = None
        if self.sidecar is not None:
            totals["unasked"] = self.sidecar.counts
            client = self.sidecar.client.counts
        return figures_text(self.figures, totals, client)
