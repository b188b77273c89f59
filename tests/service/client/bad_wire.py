"""Between a server and who uses it: a wire that is slow, cut, or talks nonsense."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from rlkv_service.redis_url import RedisURL

#: What becomes of bytes from the server; None: both ends are closed.
Spoiler = Callable[[bytes], bytes | None]


def cut_half_way(raw: bytes) -> bytes | None:
    """The first of two halves; there is no second one."""
    return raw[: len(raw) // 2] if len(raw) > 1 else None


def garbage(raw: bytes) -> bytes | None:
    return b"\x16\x03\x01garbage\r\n\xff" * 3


def always(reply: bytes) -> Spoiler:
    """What RESP allows, and no reply to what was asked."""

    def spoiler(raw: bytes) -> bytes:
        return 4 * reply

    return spoiler


_TIME = re.compile(rb"\*2\r\n\$10\r\n(\d{10})\r\n(\$\d\r\n\d+\r\n)")


def clock_moved(seconds: int) -> Spoiler:
    """The server's clock is so far ahead of what it was."""

    def moved(found: re.Match[bytes]) -> bytes:
        return b"*2\r\n$10\r\n%d\r\n" % (int(found[1]) + seconds) + found[2]

    return lambda raw: _TIME.sub(moved, raw)


class BadWire:
    """Listens beside the server's socket, and passes bytes on until it is told otherwise."""

    def __init__(self, server: RedisURL, name: str = "wire") -> None:
        self._server = server
        self.url = RedisURL(path=str(Path(server.path).with_name(f"{name}.sock")))
        self.delay_s = 0.0
        self.spoiler: Spoiler | None = None  # of what the server says
        self.spoils_commands = False  # and of what it is told, too
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.url.path)
        self._listener.listen(64)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10.0)
        for each in (self._listener, *self._open):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            self._open += [near, far]
            try:
                far.connect(self._server.path)
            except OSError:
                near.close()
                continue
            for source, sink, is_spoilt in ((near, far, False), (far, near, True)):
                thread = threading.Thread(
                    target=self._pass_on, args=(source, sink, is_spoilt), daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_spoilt: bool) -> None:
        with suppress(OSError):
            while raw := source.recv(1 << 16):
                if self.delay_s and is_spoilt:
                    time.sleep(self.delay_s)
                is_spoilt_now = is_spoilt or self.spoils_commands
                if is_spoilt_now and (spoiler := self.spoiler) is not None:
                    spoilt = spoiler(raw)
                    if spoilt:
                        sink.sendall(spoilt)
                    if spoiler is cut_half_way or spoilt is None:
                        break
                else:
                    sink.sendall(raw)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
