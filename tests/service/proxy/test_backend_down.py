"""A backend that is not there, goes, comes back, or talks nonsense."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.service.proxy.raw_backend import CLOSE, RawBackend, RawRequest, raw_backend, whole
from tests.service.proxy.running_proxy import running_proxy


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_who_is_not_there_is_asked_again_when_he_is() -> None:
    port = free_port()
    with running_proxy(f"http://127.0.0.1:{port}") as proxy:
        refused = httpx.get(f"{proxy.url}/v1/models")
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"] == "1"
        problem = refused.json()
        assert problem["type"] == "urn:rlkv:problem:backend-unreachable"
        assert problem["detail"].startswith(f"http://127.0.0.1:{port} cannot be reached: ")
        with pytest.raises(openai.InternalServerError, match="cannot be reached"):
            proxy.client().models.list()
        assert httpx.get(f"{proxy.url}/rlkv/healthz").json()["backend"] == "not reached"
        for _ in range(2):  # it goes once more in between
            with raw_backend(port=port):
                assert httpx.get(proxy.url).content == b"hello"
            assert httpx.get(proxy.url).status_code == 503


def test_a_kept_connection_that_has_died_costs_nothing(backend: RawBackend) -> None:
    def answer(request: RawRequest) -> Iterator[bytes]:
        yield from whole(b"%d" % backend.num_connections)(request)
        yield CLOSE  # without having said so

    backend.answer = answer
    with running_proxy(backend.url) as proxy, httpx.Client() as client:
        answers = [client.post(proxy.url, content=b"x").content for _ in range(20)]
    assert answers == [b"%d" % number for number in range(1, 21)]


def test_a_request_on_a_dying_connection_is_sent_once_more(backend: RawBackend) -> None:
    def answer(request: RawRequest) -> Iterator[bytes]:
        if request.body == b"die" and backend.num_connections == 1:
            yield CLOSE
        yield from whole(request.body)(request)

    backend.answer = answer
    with running_proxy(backend.url) as proxy, httpx.Client() as client:
        assert client.post(proxy.url, content=b"live").content == b"live"
        assert client.post(proxy.url, content=b"die").content == b"die"
        assert proxy.metrics()['backend_retries_total{result="sent_again"}'] == 1
        backend.answer = lambda _: iter([CLOSE])
        # Over a new connection nothing is sent twice: the backend may have done it.
        response = client.post(proxy.url, content=b"gone")
        assert response.status_code == 502
        assert response.json()["detail"] == "the backend closed the connection"
    assert backend.num_connections == 3


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]
)
def test_nonsense(backend: RawBackend, said: bytes) -> None:
    backend.answer = lambda _: iter([said])
    with running_proxy(backend.url) as proxy:
        response = httpx.get(proxy.url)
        assert response.status_code == 502
        assert response.json()["type"] == "urn:rlkv:problem:backend-broken"


def test_too_many_headers(backend: RawBackend) -> None:
    backend.answer = whole(b"", b"200 OK", *[b"X-%d: %s" % (n, b"x" * 1000) for n in range(300)])
    with running_proxy(backend.url) as proxy:
        assert httpx.get(proxy.url).status_code == 502


def test_silence_has_an_end(backend: RawBackend) -> None:
    def answer(request: RawRequest) -> Iterator[bytes]:
        request.connection.recv(1)
        yield CLOSE

    backend.answer = answer
    with running_proxy(backend.url, silence_timeout_s=0.1) as proxy:
        response = httpx.get(proxy.url, timeout=30.0)
        assert response.status_code == 504
        assert response.json()["detail"] == "the backend says nothing for 0.1 s"


def test_a_host_that_has_no_address() -> None:
    with running_proxy("http://backend.invalid:80") as proxy:
        response = httpx.get(proxy.url)
        assert response.status_code == 503
        assert "http://backend.invalid cannot be reached" in response.json()["detail"]
