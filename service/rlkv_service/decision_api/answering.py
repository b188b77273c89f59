"""Requests become questions to the service, and its answers become responses."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from rlkv_service.columns import rows_of, verdicts_of
from rlkv_service.decision_api.decision_bodies import read_decisions, write_verdicts
from rlkv_service.decision_api.outcome_bodies import EndedBody, RecordedBody, read_outcomes
from rlkv_service.decision_api.problems import Problem
from rlkv_service.decision_api.session_ends import read_end
from rlkv_service.redis_errors import RedisError
from rlkv_service.schema import (
    DecisionRequest,
    Outcome,
    SchemaError,
    SessionEnd,
    check_version,
    decode,
    encode,
    version_of,
)
from rlkv_service.sidecar.service import DecisionService

JSON = "application/json"
MSGPACK = "application/msgpack"
#: Requests with outcomes that wait for the store; one more is told to come again.
_MAX_WAITING = 64
_RETRY_AFTER_S = 1.0
#: The store answers whoever asks whether all is ready by then, or is not ready, seconds.
_READY_TIMEOUT_S = 2.0


class Answering:
    """The endpoints. All of it runs in the loop's thread, but for what waits for the store."""

    def __init__(self, service: DecisionService) -> None:
        self._service = service
        self._waiting = 0
        self._storing = ThreadPoolExecutor(1, thread_name_prefix="rlkv-outcomes")
        self._checking = ThreadPoolExecutor(1, thread_name_prefix="rlkv-ready")
        self._check: asyncio.Future[str] | None = None

    def close(self) -> None:
        """Waits for what is being stored."""
        self._storing.shutdown()
        self._checking.shutdown(cancel_futures=True)

    async def decide(self, request: Request) -> Response:
        """Verdicts for one or many rows."""
        try:
            return await self._decide(request)
        except Problem:
            self._service.counters.dropped("malformed")
            raise

    async def record(self, request: Request) -> Response:
        """Outcomes; answered once the store has them."""
        kind = _content_type(request)
        if kind != JSON:
            raise _wrong_type(kind, JSON)
        new = await self._store(read_outcomes(await request.body()))
        return _json(RecordedBody(len(new), sum(new)))

    async def end(self, request: Request) -> Response:
        """The end of a session; answered once the store has it."""
        end = read_end(request.path_params["session_id"], request.query_params)
        (new,) = await self._store([end])
        return _json(EndedBody(end.session, end.engine_id, new))

    async def policy(self, _: Request) -> Response:
        """The bundle that decides."""
        return _json(self._service.policy)

    async def ready(self) -> str:
        """Why nobody should ask, in words; empty: they may."""
        if self._check is None or self._check.done():
            loop = asyncio.get_running_loop()
            self._check = loop.run_in_executor(self._checking, lambda: self._service.not_ready)
        # One check at a time, however many ask, and however long it takes.
        try:
            return await asyncio.wait_for(asyncio.shield(self._check), _READY_TIMEOUT_S)
        except TimeoutError:
            return f"the server of Redis does not answer within {_READY_TIMEOUT_S:g} s"

    async def _decide(self, request: Request) -> Response:
        kind = _content_type(request)
        if kind == JSON:
            engine_id, rows, hints = read_decisions(await request.body())
            verdicts = self._service.decide(engine_id, rows)
            return Response(write_verdicts(rows, verdicts, hints), media_type=JSON)
        if kind != MSGPACK:
            raise _wrong_type(kind, f"{JSON} or {MSGPACK}")
        return Response(self._decide_columns(await request.body()), media_type=MSGPACK)

    def _decide_columns(self, body: bytes) -> bytes:
        asked = _read_columns(body)
        try:
            rows = rows_of(asked)
        except SchemaError as error:
            raise Problem("field", str(error), pointer="#/facts") from error
        verdicts = self._service.decide(asked.engine_id, rows)
        return encode(verdicts_of(verdicts, asked.id))

    async def _store(self, messages: list[Outcome] | list[SessionEnd]) -> list[bool]:
        if self._waiting >= _MAX_WAITING:
            raise Problem(
                "unavailable",
                f"{self._waiting} requests wait for the store already",
                retry_after_s=_RETRY_AFTER_S,
            )
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            return await loop.run_in_executor(self._storing, self._service.record, messages)
        except RedisError as error:
            reason = f"not recorded, or not known to be; send it again: {error}"
            raise Problem("unavailable", reason, retry_after_s=_RETRY_AFTER_S) from error
        finally:
            self._waiting -= 1


def _read_columns(body: bytes) -> DecisionRequest:
    try:
        return decode(body, DecisionRequest)
    except SchemaError as error:
        reason, is_text = str(error), not isinstance(error.__cause__, UnicodeError)
    try:
        version, _ = version_of(body)
    except SchemaError as error:
        raise Problem("unreadable", str(error)) from error
    try:
        check_version(version)
    except SchemaError as error:
        raise Problem("version", str(error), pointer="#/v") from error
    if not is_text:
        raise Problem("unreadable", reason)
    raise Problem("field", reason, pointer="#")


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _wrong_type(said: str, wanted: str) -> Problem:
    return Problem("content-type", f"the body is {said or 'of no content type'}, not {wanted}")


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type=JSON)
