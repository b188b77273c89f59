"""A real proxy on a free port, in front of whatever listens."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai

from rlkv_service.proxy.app import Proxy
from rlkv_service.proxy.backend_url import BackendURL
from rlkv_service.proxy.options import ProxyOptions
from rlkv_service.web_server.running import WebServer
from tests.service.serving_thread import serving

#: Nothing here takes so long, seconds; what does has failed.
PATIENCE_S = 120.0


@dataclass
class RunningProxy:
    url: str
    proxy: Proxy
    _clients: list[openai.OpenAI] = field(default_factory=list)

    def client(self, **options: Any) -> Any:
        """An ``openai.OpenAI``; its many overloads are no help here."""
        options = {"api_key": "none", "max_retries": 0, "timeout": PATIENCE_S, **options}
        client = openai.OpenAI(base_url=f"{self.url}/v1", **options)
        self._clients.append(client)
        return client

    def metrics(self) -> dict[str, float]:
        """Samples by name and labels, as they are written."""
        lines = httpx.get(f"{self.url}/rlkv/metrics").text.splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name.removeprefix("rlkv_proxy_"): float(value) for name, _, value in samples}

    def wait_until(self, holds: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        """The metrics once they are so."""
        until_s = time.monotonic() + PATIENCE_S
        while not holds(metrics := self.metrics()):
            assert time.monotonic() < until_s, metrics
        return metrics


@contextmanager
def running_proxy(url: str, **options: Any) -> Iterator[RunningProxy]:
    proxy = Proxy(ProxyOptions(url=BackendURL.parse(url), **options))
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        server = WebServer(proxy.app, passes_through=True)
        with serving(server, listening, PATIENCE_S) as address:
            running = RunningProxy(address, proxy)
            try:
                yield running
            finally:
                for client in running._clients:
                    client.close()
