"""Runs a sidecar until somebody stops it, with the decision API if that is wanted."""

from __future__ import annotations

import gc
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rlkv_engine.errors import RlkvError
from rlkv_service.own_valkey import OwnValkey
from rlkv_service.redis_url import RedisURL
from rlkv_service.sidecar.sidecar import Background, Sidecar, SidecarOptions

if TYPE_CHECKING:
    from rlkv_service.decision_api.options import ApiOptions


_Handler = Callable[[int, FrameType | None], object]


@dataclass(frozen=True, slots=True)
class Http:
    """Where the decision API listens, and what it allows."""

    listening: socket.socket
    options: ApiOptions


def serve(
    url: RedisURL | None,
    data_dir: Path,
    options: SidecarOptions,
    http: Http | None,
    on_ready: Callable[[Sidecar], None],
) -> None:
    """Answers until SIGINT or SIGTERM, then what it has taken, and returns.

    Args:
        url: the server; None: one of its own.
        data_dir: of that.
        options: of the sidecar.
        http: of the decision API; None: there is none.
        on_ready: called once it answers.

    Raises:
        InputError: the bundle, the folder or the file of tokens cannot be used.
        RlkvError: the server cannot be used, or a bug has ended the sidecar.
    """
    background: list[Background] = []
    with ExitStack() as stack:
        if url is None:
            own = stack.enter_context(OwnValkey(data_dir))
            url = own.url
            background.append(own.keep_running)
        sidecar = Sidecar(url, options, background=background)
        # What is there now stays: the collector would look at all of it while a request waits.
        gc.collect()
        gc.freeze()
        stack.callback(gc.unfreeze)

        def stop(number: int, frame: FrameType | None) -> None:
            sidecar.stop_event.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            _take(number, stop, stack)
        with sidecar:
            if http is None:
                on_ready(sidecar)
                sidecar.stop_event.wait()
            else:
                _serve_http(sidecar, http, on_ready)
    if sidecar.failure is not None:
        raise RlkvError(f"the sidecar has ended: {sidecar.failure}")


def _take(number: signal.Signals, handler: _Handler, stack: ExitStack) -> None:
    """Handles a signal until the end of the stack."""
    stack.callback(signal.signal, number, signal.signal(number, handler))


def _serve_http(sidecar: Sidecar, http: Http, on_ready: Callable[[Sidecar], None]) -> None:
    from rlkv_service.decision_api.app import make_app
    from rlkv_service.web_server.running import WebServer

    app = make_app(sidecar.service, http.options)
    server = WebServer(app, app.state.feed.close)

    def follow() -> None:
        sidecar.stop_event.wait()
        server.should_exit = True

    threading.Thread(target=follow, daemon=True).start()
    on_ready(sidecar)
    try:
        server.run(sockets=[http.listening])
    finally:
        sidecar.stop_event.set()
