"""A backend that sends exactly the bytes that a test wants, and shows what it was sent."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.service.proxy.running_proxy import PATIENCE_S

#: What is written, piece by piece; afterwards the connection is kept unless it says ``CLOSE``.
Answer = Callable[["RawRequest"], Iterator[bytes]]
CLOSE = b"<close>"


@dataclass(frozen=True)
class RawRequest:
    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    connection: socket.socket

    def all(self, name: bytes) -> list[bytes]:
        return [value for each, value in self.headers if each.lower() == name]


def whole(body: bytes, status: bytes = b"200 OK", *headers: bytes) -> Answer:
    """A response with a length."""

    def answer(_: RawRequest) -> Iterator[bytes]:
        lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
        yield b"\r\n".join(lines) + b"\r\n\r\n" + body

    return answer


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


LAST_CHUNK = b"0\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@dataclass
class RawBackend:
    url: str
    answer: Answer = field(default_factory=lambda: whole(b"hello"))
    requests: queue.Queue[RawRequest] = field(default_factory=queue.Queue)
    num_connections: int = 0
    _open: list[socket.socket] = field(default_factory=list)

    def taken(self) -> RawRequest:
        """The next request that has come."""
        return self.requests.get(timeout=PATIENCE_S)

    def drop_connections(self) -> None:
        """Closes what is open, as a server does that restarts."""
        for connection in self._open:
            # Who reads from it hears of it.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def serve(self, connection: socket.socket) -> None:
        self.num_connections += 1
        self._open.append(connection)
        try:
            with connection, connection.makefile("rb") as reader:
                while line := reader.readline():
                    request = _read(line.rstrip(), reader, connection)
                    self.requests.put(request)
                    for piece in self.answer(request):
                        if piece == CLOSE:
                            return
                        connection.sendall(piece)
        except OSError:
            pass  # the other end has gone, or the test has dropped it


def _read(line: bytes, reader: object, connection: socket.socket) -> RawRequest:
    headers = []
    while header := reader.readline().rstrip():  # type: ignore[attr-defined]
        name, _, value = header.partition(b":")
        headers.append((name, value.strip()))
    length = int(dict(headers).get(b"content-length", b"0"))
    return RawRequest(line, headers, reader.read(length), connection)  # type: ignore[attr-defined]


@contextmanager
def raw_backend(answer: Answer | None = None, port: int = 0) -> Iterator[RawBackend]:
    with socket.create_server(("127.0.0.1", port), reuse_port=False) as listening:
        backend = RawBackend(f"http://127.0.0.1:{listening.getsockname()[1]}")
        if answer is not None:
            backend.answer = answer
        threads = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                thread = threading.Thread(target=backend.serve, args=(connection,), daemon=True)
                thread.start()
                threads.append(thread)

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield backend
        # Wakes who accepts.
        listening.shutdown(socket.SHUT_RDWR)
        accepting.join(PATIENCE_S)
        backend.drop_connections()
