"""One request after the other: to the backend, and what it answers back, piece by piece."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from urllib.parse import unquote

import msgspec
from starlette.types import Receive, Scope, Send

from rlkv_service.decision_api.problems import Problem
from rlkv_service.proxy.answer_readers import AnswerReader
from rlkv_service.proxy.body_edit import with_hints
from rlkv_service.proxy.figures import Figures
from rlkv_service.proxy.headers import request_headers, response_headers
from rlkv_service.proxy.options import ProxyOptions
from rlkv_service.proxy.problems import backend_problem, send_problem
from rlkv_service.proxy.requests import Asked, kind_of, read_request
from rlkv_service.proxy.turns import Turn, Turns
from rlkv_service.proxy.upstream import Upstream, request_head
from rlkv_service.proxy.upstream_connection import Headers, UpstreamConnection, UpstreamError

_log = logging.getLogger(__name__)

#: What a client is told of the session that its request was taken for.
SESSION_RESPONSE_HEADER = b"x-rlkv-session"
#: How the rlkv server, and those that follow it, end a session.
_SESSIONS_PATH = "/v1/sessions/"


class Forwarding:
    """Passes requests on.

    Args:
        options: of the proxy.
        upstream: to the backend.
        turns: told of what passes.
        figures: what is counted.
    """

    def __init__(
        self, options: ProxyOptions, upstream: Upstream, turns: Turns, figures: Figures
    ) -> None:
        self.upstream, self.turns, self.figures = upstream, turns, figures
        self._authority, self._path = options.url.authority.encode(), options.url.path.encode()
        self._without = () if options.passes_authorization else (b"authorization",)
        self._added: Headers = []
        if options.authorization is not None:
            self._added = [(b"authorization", options.authorization)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        await _Exchange(self, scope, receive, send).run()

    def head(self, scope: Scope, body: bytes, added: Headers) -> bytes:
        """Request line and headers for the backend."""
        names = [name for name, _ in scope["headers"]]
        sends_body = body or b"content-length" in names or b"transfer-encoding" in names
        headers = request_headers(
            scope["headers"],
            self._authority,
            len(body) if sends_body else None,
            self._without,
            [*self._added, *added],
        )
        target = self._path + scope["raw_path"]
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        return request_head(scope["method"], target, headers)


class _Exchange:
    """One request and its response."""

    def __init__(self, by: Forwarding, scope: Scope, receive: Receive, send: Send) -> None:
        self._by = by
        self._scope, self._receive, self._send = scope, receive, send
        self._kind = kind_of(scope["method"], scope["path"])
        self._turn: Turn | None = None
        self._client_is_gone = False
        self._status = 0  # that the client has seen

    async def run(self) -> None:
        body = await self._read_body()
        if body is None:
            return  # the client has gone before it has asked
        task = asyncio.current_task()
        assert task is not None
        watching = asyncio.create_task(self._watch(task))
        how = "broken"
        try:
            how = await self._exchange(body)
        except asyncio.CancelledError:
            if not self._client_is_gone:
                raise
            how = "abandoned"
            task.uncancel()
        except UpstreamError as error:
            await self._fail(error)
        finally:
            watching.cancel()
            self._count(how)

    async def _exchange(self, body: bytes) -> str:
        """Sends the request and passes the response; what came of it."""
        by, begun_s = self._by, time.monotonic()
        body, added = self._prepare(body)
        head = by.head(self._scope, body, added)
        connection = await by.upstream.request(self._scope["method"], head, body)
        try:
            by.figures.first_byte_s.labels(self._kind or "other").observe(
                time.monotonic() - begun_s
            )
            return await self._pass(connection)
        finally:
            by.upstream.give_back(connection)

    async def _pass(self, connection: UpstreamConnection) -> str:
        status, send = connection.status, self._send
        headers = response_headers(connection.headers, status)
        reader = self._reader(status, headers)
        if self._turn is not None:
            headers.append(
                (SESSION_RESPONSE_HEADER, self._turn.session.name.encode("latin-1", "replace"))
            )
        await send({"type": "http.response.start", "status": status, "headers": headers})
        self._status = status
        while piece := await connection.read_body():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            # Behind the piece, not before it.
            if reader is not None:
                reader.feed(piece)
                if reader.is_over:
                    # The client may go on before the body ends.
                    self._after(status, reader)
                    reader = None
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        self._after(status, reader)
        return "answered"

    def _after(self, status: int, reader: AnswerReader | None) -> None:
        """The response is through: what it says of its session."""
        by, turn = self._by, self._turn
        try:
            if turn is not None:
                self._turn = None
                if 200 <= status < 300:
                    answer = reader.answer() if reader is not None else None
                    if answer is None or answer.is_whole:
                        by.turns.answered(turn, answer)
                    else:
                        by.turns.failed(turn, "broken")
                else:
                    by.turns.failed(turn, "refused")
            elif self._scope["method"] == "DELETE" and 200 <= status < 300:
                _, found, name = self._scope["path"].rpartition(_SESSIONS_PATH)
                if found:
                    by.turns.end_session(unquote(name))
        except Exception:
            by.figures.errors.inc()
            _log.exception("a turn has passed, and is not understood")

    def _prepare(self, body: bytes) -> tuple[bytes, Headers]:
        """The body with hints, and headers to add."""
        by = self._by
        if self._kind is None:
            return body, []
        try:
            headers: Mapping[bytes, bytes] = dict(self._scope["headers"])
            asked: Asked = read_request(self._kind, headers, body)
            self._turn = turn = by.turns.begin(asked, len(body))
            if turn is None:
                return body, []
            hints = by.turns.hints(turn)
            if hints is None:
                return body, []
            added = [
                (name.lower().encode("ascii"), value.encode("ascii"))
                for name, value in hints.headers.items()
                if value.isprintable()
            ]
            body = with_hints(body, asked.members, hints)
            by.figures.hinted.inc()
            return body, added
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            by.figures.unread.labels("request").inc()
        except Exception:
            by.figures.errors.inc()
            _log.exception("a request passes without hints")
        return body, []

    def _reader(self, status: int, headers: Headers) -> AnswerReader | None:
        if self._turn is None or not 200 <= status < 300:
            return None
        found = dict(headers)
        if found.get(b"content-encoding", b"identity") != b"identity":
            return None
        assert self._kind is not None
        streams = found.get(b"content-type", b"").startswith(b"text/event-stream")
        return AnswerReader(self._kind, streams)

    async def _read_body(self) -> bytes | None:
        """All of the request's body; None: it does not come, or is too long."""
        pieces, num_bytes = [], 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return None
            pieces.append(message.get("body", b""))
            num_bytes += len(pieces[-1])
            if not message.get("more_body", False):
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _watch(self, task: asyncio.Task[None]) -> None:
        """Ends the request when its client goes."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._client_is_gone = True
        task.cancel()

    async def _fail(self, error: UpstreamError) -> None:
        self._by.figures.backend_failures.labels(error.kind).inc()
        _log.info("%s %s: %s", self._scope["method"], self._scope["path"], error)
        if self._status:
            return  # in the middle of an answer: the server breaks it off, as the backend did
        problem: Problem = backend_problem(error)
        self._status = problem.status_code
        await send_problem(problem, self._scope, self._receive, self._send)

    def _count(self, how: str) -> None:
        by, turn = self._by, self._turn
        if turn is not None:
            self._turn = None
            by.turns.failed(turn, how)
        status = str(self._status or 499)
        by.figures.requests.labels(self._kind or "other", status).inc()
