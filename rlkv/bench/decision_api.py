"""What a decision costs over HTTP, beside a bare PING of Redis, on sockets that stay open."""

from __future__ import annotations

import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from rlkv.bench.measure import Size
from rlkv_service.decision_api.examples import OFFER
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection

#: Rows of a request.
ROWS = (1, 64)
#: Connections that ask together, for requests per second.
_CONNECTIONS = 8
_START_TIMEOUT_S = 120.0


def decision_api(size: Size) -> dict[str, Any]:
    """Latency on one connection, requests per second on eight; the server has its own process.

    JSON (``http``) and MessagePack columns (``http_columns``); ``http_0`` is ``GET /healthz``, what
    HTTP costs by itself.
    """
    from rlkv_service.embedded_valkey import EmbeddedValkey

    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="rlkv-") as folder:
        valkey = EmbeddedValkey(Path(folder))
        try:
            with _server(valkey.url) as port:
                ping_s = _ping_s(valkey.url, size.http_requests)
                for name, request in _requests():
                    _measure(name, request, port, size, figures)
        finally:
            valkey.stop()
    figures["http_1_p50_over_ping"] = figures["http_1_p50_s"] / ping_s
    figures["http_64_p50_over_ping"] = figures["http_64_p50_s"] / ping_s
    figures["ping_p50_s"] = ping_s
    return {
        "figures": figures,
        "measured_on": {"requests": size.http_requests, "connections": _CONNECTIONS},
    }


def _measure(name: str, request: bytes, port: int, size: Size, figures: dict[str, float]) -> None:
    with _connected(port, 1) as (one,):
        durations_s = _durations_s(lambda: _ask(one, request), size.http_requests)
    figures[f"{name}_p50_s"] = statistics.median(durations_s)
    figures[f"{name}_p99_s"] = statistics.quantiles(durations_s, n=100)[98]
    with _connected(port, _CONNECTIONS) as many:
        begin_s = time.perf_counter()
        for _ in range(size.http_requests // _CONNECTIONS):
            for each in many:
                each.sendall(request)
            for each in many:
                _read_response(each)
        asked = size.http_requests // _CONNECTIONS * _CONNECTIONS
        figures[f"{name}_per_s"] = asked / (time.perf_counter() - begin_s)


def _requests() -> Iterator[tuple[str, bytes]]:
    from rlkv_service.columns import request_of
    from rlkv_service.decision_api.decision_bodies import read_decisions
    from rlkv_service.schema import encode

    yield "http_0", b"GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n"
    for num in ROWS:
        asked = OFFER["rows"]
        rows = [asked[i % 2] | {"session": f"session-{i}", "rank": i} for i in range(num)]
        body = msgspec.json.encode(OFFER | {"rows": rows})
        yield f"http_{num}", _post(body, "application/json")
        engine_id, columns, _ = read_decisions(body)
        message = encode(request_of(columns, engine_id, 1))
        yield f"http_columns_{num}", _post(message, "application/msgpack")


def _post(body: bytes, content_type: str) -> bytes:
    head = (
        f"POST /v1/decisions HTTP/1.1\r\nHost: bench\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _ask(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request)
    _read_response(connection)


def _read_response(connection: socket.socket) -> None:
    raw = b""
    while (end := raw.find(b"\r\n\r\n")) < 0:
        raw += _some(connection)
    head = raw[:end].lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(f"the server says {raw[:200]!r}")
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    missing = end + 4 + length - len(raw)
    while missing > 0:
        missing -= len(_some(connection))


def _some(connection: socket.socket) -> bytes:
    raw = connection.recv(1 << 16)
    if not raw:
        raise RuntimeError("the server has closed the connection")
    return raw


def _ping_s(url: RedisURL, num: int) -> float:
    with RespConnection(url) as connection:
        return statistics.median(_durations_s(lambda: connection.execute("PING"), num))


def _durations_s(ask: Callable[[], object], num: int) -> Sequence[float]:
    for _ in range(min(num, 100)):
        ask()
    durations_s = []
    for _ in range(num):
        begin_s = time.perf_counter()
        ask()
        durations_s.append(time.perf_counter() - begin_s)
    return durations_s


@contextmanager
def _connected(port: int, num: int) -> Iterator[list[socket.socket]]:
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(num)]
    for each in connections:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        yield connections
    finally:
        for each in connections:
            each.close()


@contextmanager
def _server(url: RedisURL) -> Iterator[int]:
    # A process of its own, as it runs: client and server would share Python's lock.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(url, there), daemon=True)
    process.start()
    try:
        if not here.poll(_START_TIMEOUT_S):
            raise RuntimeError("the server does not start")
        yield here.recv()
    finally:
        process.terminate()
        process.join()


def _serve(url: RedisURL, there: Connection) -> None:
    from rlkv_agents.shipped import UNIVERSAL, bundle_folder
    from rlkv_service.deciding.active_bundle import ActiveBundle
    from rlkv_service.deciding.decider import Decider
    from rlkv_service.decision_api.app import make_app
    from rlkv_service.redis_keys import RedisKeys
    from rlkv_service.sidecar.service import DecisionService
    from rlkv_service.web_server.listening import listen
    from rlkv_service.web_server.running import run_app

    decider = Decider(ActiveBundle.load(bundle_folder(UNIVERSAL)))
    app = make_app(DecisionService(decider, url, RedisKeys("bench")))
    with listen("127.0.0.1", 0) as listening:
        there.send(listening.getsockname()[1])
        run_app(app, listening, app.state.feed.close)
