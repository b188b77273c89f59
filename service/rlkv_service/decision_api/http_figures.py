"""What came over HTTP, counted by path and status."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Seconds.
_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
)  # fmt: skip
#: What is asked for; anything else is ``other``: paths come from outside, labels are kept.
_PATHS = (
    "/", "/healthz", "/metrics", "/openapi.json", "/readyz", "/v1/decisions", "/v1/events",
    "/v1/outcomes", "/v1/policy",
)  # fmt: skip
_SESSIONS = "/v1/sessions/"
#: Lasts as long as somebody looks on: no latency.
_ENDLESS = "/v1/events"


class HttpFigures:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "rlkv_http_requests_total",
            "Requests over HTTP.",
            ["path", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "rlkv_http_request_seconds",
            "From a request's head to the end of its response.",
            ["path"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._children: dict[tuple[str, int], Callable[[float], None]] = {}

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Counts what an application answers."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            begin_s = time.perf_counter()
            # Of an error that nothing has answered yet.
            status = 500

            async def noted(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app(scope, receive, noted)
            finally:
                self._count(_path_of(scope["path"]), status, time.perf_counter() - begin_s)

        return counted

    def _count(self, path: str, status: int, seconds: float) -> None:
        count = self._children.get((path, status))
        if count is None:
            count = self._children[path, status] = self._child(path, status)
        count(seconds)

    def _child(self, path: str, status: int) -> Callable[[float], None]:
        requests = self._requests.labels(path, str(status))
        durations = None if path == _ENDLESS else self._seconds.labels(path)

        def count(seconds: float) -> None:
            requests.inc()
            if durations is not None:
                durations.observe(seconds)

        return count


def _path_of(path: str) -> str:
    if path.startswith(_SESSIONS):
        return _SESSIONS + "{session_id}"
    return path if path in _PATHS else "other"
