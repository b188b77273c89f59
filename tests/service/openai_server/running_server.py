"""A real server of the scripted model on a free port, and the real client for it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import openai
import uvicorn

from rlkv_agents.rules import make_rule
from rlkv_engine import state as S
from rlkv_engine.paged.engine import PagedEngine
from rlkv_service.openai_server.app import create_app
from rlkv_service.openai_server.engine_thread import EngineThread
from rlkv_service.openai_server.metrics import EngineFigures
from rlkv_service.openai_server.options import ServerOptions
from rlkv_service.openai_server.serving import Serving
from tests.engine.paged.small_engine import pause_table, tiny_profile
from tests.service.openai_server.scripted_model import (
    ScriptedConfig,
    ScriptedLoaded,
    ScriptedModel,
    answer,
)
from tests.service.serving_thread import serving

#: Nothing here takes so long, seconds; what does has failed.
PATIENCE_S = 120.0


class RecordingEngine(PagedEngine):
    """Notes for which tool sessions pause."""

    tools: list[str]

    def pause(self, session: int, tool: str) -> None:
        self.tools.append(tool)
        super().pause(session, tool)


def scripted_engine(
    loaded: ScriptedLoaded, rule: str, num_device_blocks: int, num_host_blocks: int
) -> RecordingEngine:
    profile, table = tiny_profile(num_device_blocks, num_host_blocks), pause_table()
    profile = replace(profile, block_size=16, max_num_seqs=64, max_num_batched_tokens=1024)
    engine = RecordingEngine(
        loaded,  # type: ignore[arg-type]
        profile,
        make_rule(rule).params(table),
        table,
        lease_s=make_rule(rule).leases(profile, table),
    )
    engine.tools = []
    return engine


@dataclass
class Running:
    url: str
    engine: RecordingEngine
    thread: EngineThread
    serving: Serving
    _clients: list[openai.OpenAI] = field(default_factory=list)

    def client(self, key: str = "none") -> Any:
        """An ``openai.OpenAI``; its many overloads are no help here."""
        client = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE_S
        )
        self._clients.append(client)
        return client

    def figures(self) -> EngineFigures:
        return self.thread.call(self.serving.figures).result(PATIENCE_S)

    def wait_until(self, holds: Callable[[EngineFigures], bool]) -> EngineFigures:
        """The engine's figures once they are so."""
        until_s = time.monotonic() + PATIENCE_S
        while not holds(figures := self.figures()):
            assert time.monotonic() < until_s, figures
        return figures

    def assert_nothing_is_left(self) -> None:
        """No session, no block, and the books are right."""
        figures = self.figures()
        assert (figures.running_sessions, figures.paused_sessions) == (0, 0)
        assert figures.free_device_blocks == figures.device_blocks
        assert figures.free_host_blocks == figures.host_blocks
        assert self.engine.state.n[S.NUM_RUN] == 0
        self.thread.call(self.engine.check_integrity).result(PATIENCE_S)


@contextmanager
def running_server(
    options: ServerOptions | None = None,
    now_s: Callable[[], float] = time.monotonic,
    *,
    script: Callable[[str], str] = answer,
    rule: str = "house",
    max_tokens: int = 4096,
    num_device_blocks: int = 512,
    num_host_blocks: int = 512,
) -> Iterator[Running]:
    config = ScriptedConfig(max_position_embeddings=max_tokens)
    loaded = ScriptedLoaded(config, ScriptedModel(script))
    engine = scripted_engine(loaded, rule, num_device_blocks, num_host_blocks)
    app = create_app(loaded, engine, options, now_s)  # type: ignore[arg-type]
    # It listens before it serves: a client that comes early waits.
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5))
        with serving(server, listening, PATIENCE_S) as url:
            running = Running(url, engine, app.state.thread, app.state.serving)
            try:
                yield running
            finally:
                for client in running._clients:
                    client.close()
