"""What goes through the proxy comes out as it went in."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.service.proxy.raw_backend import (
    CLOSE,
    LAST_CHUNK,
    STREAM_HEAD,
    RawBackend,
    RawRequest,
    chunk,
    whole,
)
from tests.service.proxy.running_proxy import PATIENCE_S, RunningProxy, running_proxy


@pytest.fixture
def proxy(backend: RawBackend) -> Iterator[RunningProxy]:
    with running_proxy(backend.url) as running:
        yield running


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_method_path_query_and_body_arrive(
    backend: RawBackend, proxy: RunningProxy, method: str
) -> None:
    path = "/a%2Fb/c%20d/%C3%BC;x=1?q=a%26b&q=&r"
    body = b"\x00\xff{not json" if method not in ("GET", "OPTIONS") else b""
    response = httpx.request(method, proxy.url + path, content=body)
    assert (response.status_code, response.content) == (200, b"hello")
    request = backend.taken()
    assert request.line == f"{method} {path} HTTP/1.1".encode()
    assert request.body == body


def test_a_head_request_has_the_length_and_no_body(
    backend: RawBackend, proxy: RunningProxy
) -> None:
    def answer(request: RawRequest) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"

    backend.answer = answer
    with httpx.Client() as client:
        for _ in range(2):
            response = client.head(proxy.url)
            assert response.headers["content-length"] == "12345"
            assert response.content == b""


@pytest.mark.parametrize("status", [b"201 Created", b"418 I'm a Teapot", b"503 Busy"])
def test_statuses_and_headers_come_back(
    backend: RawBackend, proxy: RunningProxy, status: bytes
) -> None:
    backend.answer = whole(
        b"\xff\x00", status, b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"X-Thing: caf\xe9",
        b"Server: theirs", b"Date: then", b"Content-Encoding: zstd-or-so",
    )  # fmt: skip
    with httpx.stream("GET", proxy.url) as response:
        assert b"".join(response.iter_raw()) == b"\xff\x00"
    assert response.status_code == int(status[:3])
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    raw = [(name.lower(), value) for name, value in response.headers.raw]
    assert sorted(raw) == sorted(
        [
            (b"content-length", b"2"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"),
            (b"x-thing", b"caf\xe9"), (b"server", b"theirs"), (b"date", b"then"),
            (b"content-encoding", b"zstd-or-so"),
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n"]
)
def test_responses_without_a_body(backend: RawBackend, proxy: RunningProxy, head: bytes) -> None:
    def answer(request: RawRequest) -> Iterator[bytes]:
        yield head

    backend.answer = answer
    with httpx.Client() as client:
        for _ in range(2):
            response = client.get(proxy.url)
            assert response.status_code == int(head.split()[1]) and response.content == b""
    assert backend.num_connections == 1


def test_headers_of_one_connection_stop_here(backend: RawBackend, proxy: RunningProxy) -> None:
    backend.answer = whole(
        b"", b"200 OK", b"Connection: keep-alive, X-Mine", b"X-Mine: 1", b"Keep-Alive: timeout=9",
        b"Proxy-Authenticate: Basic", b"X-Other: 2",
    )  # fmt: skip
    sent = {
        "Connection": "close, X-Hop", "X-Hop": "1", "Keep-Alive": "3", "TE": "trailers",
        "Trailer": "X", "Upgrade": "h2c", "Proxy-Authorization": "secret",
        "Proxy-Connection": "close", "Authorization": "Bearer theirs", "X-Stays": "yes",
        "Via": "1.0 before", "Accept-Encoding": "br",
    }  # fmt: skip
    response = httpx.get(proxy.url, headers=sent)
    request = backend.taken()
    names = {name.lower() for name, _ in request.headers}
    assert not names & {
        b"connection", b"x-hop", b"keep-alive", b"te", b"trailer", b"upgrade",
        b"proxy-authorization", b"proxy-connection", b"transfer-encoding", b"content-length",
    }  # fmt: skip
    assert request.all(b"authorization") == [b"Bearer theirs"]
    assert request.all(b"x-stays") == [b"yes"]
    assert request.all(b"accept-encoding") == [b"br"]
    assert request.all(b"via") == [b"1.0 before, 1.1 rlkv"]
    assert request.all(b"host") == [backend.url.removeprefix("http://").encode()]
    assert "x-other" in response.headers
    assert not response.headers.keys() & {"x-mine", "keep-alive", "proxy-authenticate"}


def test_a_chunked_request_arrives_whole(backend: RawBackend, proxy: RunningProxy) -> None:
    pieces = [os.urandom(70_000) for _ in range(30)]
    backend.answer = lambda request: whole(request.body)(request)
    response = httpx.post(proxy.url, content=iter(pieces))
    assert response.content == b"".join(pieces)
    request = backend.taken()
    assert request.all(b"content-length") == [b"2100000"]


def test_a_piece_arrives_before_the_next_is_written(
    backend: RawBackend, proxy: RunningProxy
) -> None:
    arrived = threading.Semaphore(0)

    def answer(_: RawRequest) -> Iterator[bytes]:
        yield STREAM_HEAD
        for number in range(5):
            yield chunk(b"data: %d\n\n" % number)
            assert arrived.acquire(timeout=PATIENCE_S)
        yield LAST_CHUNK

    backend.answer = answer
    with httpx.stream("POST", proxy.url + "/v1/chat/completions", content=b"{}") as response:
        seen = b""
        for piece in response.iter_raw():
            seen += piece
            arrived.release()
    assert seen == b"".join(b"data: %d\n\n" % number for number in range(5))


@pytest.mark.parametrize("chunked", [True, False])
def test_an_answer_that_breaks_off_breaks_off(
    backend: RawBackend, proxy: RunningProxy, chunked: bool
) -> None:
    def answer(_: RawRequest) -> Iterator[bytes]:
        if chunked:
            yield STREAM_HEAD + chunk(b"data: 1\n\n")
        else:
            yield b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ndata: 1\n\n"
        yield CLOSE

    backend.answer = answer
    seen = b""
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("GET", proxy.url, timeout=PATIENCE_S) as response,
    ):
        for piece in response.iter_raw():
            seen += piece
    assert seen == b"data: 1\n\n"
    assert proxy.metrics()['backend_failures_total{kind="lost"}'] == 1


def test_an_answer_whose_end_is_that_of_the_connection(
    backend: RawBackend, proxy: RunningProxy
) -> None:
    def answer(_: RawRequest) -> Iterator[bytes]:
        yield b"HTTP/1.0 200 OK\r\n\r\nso it"
        yield b" ends"
        yield CLOSE

    backend.answer = answer
    assert httpx.get(proxy.url).content == b"so it ends"


def test_an_interim_response_is_none(backend: RawBackend, proxy: RunningProxy) -> None:
    def answer(request: RawRequest) -> Iterator[bytes]:
        yield b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        yield from whole(b"late")(request)

    backend.answer = answer
    response = httpx.get(proxy.url)
    assert (response.status_code, response.content) == (200, b"late")
    assert "link" not in response.headers


def test_a_client_that_goes_closes_the_request(backend: RawBackend, proxy: RunningProxy) -> None:
    closed = threading.Event()

    def answer(request: RawRequest) -> Iterator[bytes]:
        yield STREAM_HEAD + chunk(b"data: 1\n\n")
        request.connection.settimeout(PATIENCE_S)
        if request.connection.recv(1) == b"":
            closed.set()
        yield CLOSE

    backend.answer = answer
    with httpx.stream("GET", proxy.url) as response:
        assert next(response.iter_raw())
    assert closed.wait(PATIENCE_S)
    proxy.wait_until(lambda metrics: metrics["backend_requests"] == 0)


def test_a_client_that_goes_before_the_answer_closes_the_request(
    backend: RawBackend, proxy: RunningProxy
) -> None:
    closed = threading.Event()

    def answer(request: RawRequest) -> Iterator[bytes]:
        request.connection.settimeout(PATIENCE_S)
        try:
            if request.connection.recv(1) == b"":
                closed.set()
        except ConnectionResetError:
            closed.set()
        yield CLOSE

    backend.answer = answer
    host, port = proxy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        backend.taken()
    assert closed.wait(PATIENCE_S)
    name = 'requests_total{api="other",status="499"}'
    proxy.wait_until(lambda metrics: metrics.get(name) == 1)


def test_a_path_before_all_paths(backend: RawBackend) -> None:
    with running_proxy(backend.url + "/deep/er/") as proxy:
        httpx.get(proxy.url + "/v1/models?x")
    assert backend.taken().line == b"GET /deep/er/v1/models?x HTTP/1.1"


def test_its_own_pages_do_not_reach_the_backend(backend: RawBackend, proxy: RunningProxy) -> None:
    assert httpx.get(proxy.url + "/rlkv/healthz").json()["status"] == "ok"
    assert b"rlkv_proxy_sessions" in httpx.get(proxy.url + "/rlkv/metrics").content
    assert httpx.get(proxy.url + "/rlkv/other").status_code == 404
    assert httpx.post(proxy.url + "/rlkv/metrics").status_code == 405
    # Theirs do.
    httpx.get(proxy.url + "/metrics")
    assert backend.taken().line == b"GET /metrics HTTP/1.1"
    assert backend.requests.empty()


def test_bodies_have_a_limit(backend: RawBackend) -> None:
    with running_proxy(backend.url, max_body_bytes=1000) as proxy:
        assert httpx.post(proxy.url, content=b"x" * 1000).status_code == 200
        for content in (b"x" * 1001, iter([b"x" * 600, b"x" * 600])):
            response = httpx.post(proxy.url, content=content)
            assert response.status_code == 413
            assert "at most 1000 bytes" in response.json()["error"]["message"]
    assert len(backend.taken().body) == 1000 and backend.requests.empty()


def test_a_slow_client_slows_the_backend(backend: RawBackend, proxy: RunningProxy) -> None:
    written = 0
    total = 64 * 2**20

    def answer(_: RawRequest) -> Iterator[bytes]:
        nonlocal written
        yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total
        while written < total:
            yield bytes(2**16)
            written += 2**16

    backend.answer = answer
    with httpx.stream("GET", proxy.url, timeout=PATIENCE_S) as response:
        pieces = response.iter_raw()
        read = len(next(pieces))
        # Sockets' buffers and the proxy's hold a part of it, however long nobody reads.
        (connection,) = proxy.proxy.upstream._busy
        until_s = time.monotonic() + PATIENCE_S
        while not connection._reading_paused:
            assert time.monotonic() < until_s
        assert written < total
        read += sum(map(len, pieces))
    assert read == total
