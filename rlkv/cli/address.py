"""Where a server is to listen, as it is written on a command line."""

from __future__ import annotations

from rlkv_engine.errors import InputError


def read_address(option: str, said: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` or ``:PORT``, which is this machine's own.

    Raises:
        InputError: it is neither.
    """
    host, colon, port = said.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InputError(f"{option} must be HOST:PORT or :PORT, got {said!r}")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)
