"""What can go wrong while engines ask: none of them notices more than that a rule answers."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from tests.service.client import bad_wire
from tests.service.client.answering import Responder
from tests.service.client.asking import wait_until
from tests.service.client.bad_wire import BadWire
from tests.service.client.loops import AsyncioLoop, EngineLoop, Loop, SyncLoop
from tests.service.client.nonsense import RandomReplies


class Deployment:
    """A server, a sidecar in little and the wire to the clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = EmbeddedValkey(folder)
        self.responder = Responder(self.server.url)
        self.wire = BadWire(self.server.url)

    def execute(self, *words: str) -> None:
        with RespConnection(self.server.url) as connection:
            connection.execute(*words)

    def stop(self) -> None:
        self.responder.stop()
        self.wire.__exit__()
        self.server.stop()


@pytest.fixture
def deployment(short_folder: Path) -> Iterator[Deployment]:
    deployment = Deployment(short_folder)
    yield deployment
    deployment.stop()


@contextmanager
def sidecar_gone(deployment: Deployment) -> Iterator[None]:
    deployment.responder.stop()
    yield
    deployment.responder = Responder(deployment.server.url)


@contextmanager
def server_killed(deployment: Deployment) -> Iterator[None]:
    deployment.server.kill()
    yield
    deployment.server = EmbeddedValkey(deployment.folder)


@contextmanager
def server_restarted_empty(deployment: Deployment) -> Iterator[None]:
    deployment.server.kill()
    yield
    shutil.rmtree(deployment.folder / "valkey")
    deployment.server = EmbeddedValkey(deployment.folder)


@contextmanager
def server_stopped(deployment: Deployment) -> Iterator[None]:
    os.kill(deployment.server.pid, signal.SIGSTOP)
    yield
    os.kill(deployment.server.pid, signal.SIGCONT)


@contextmanager
def server_out_of_memory(deployment: Deployment) -> Iterator[None]:
    deployment.execute("CONFIG", "SET", "maxmemory", "1mb")
    yield
    deployment.execute("CONFIG", "SET", "maxmemory", "0")


@contextmanager
def password_changed(deployment: Deployment) -> Iterator[None]:
    deployment.execute("CONFIG", "SET", "requirepass", "other")
    with RespConnection(RedisURL(path=deployment.server.url.path, password="other")) as connection:
        connection.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        yield
        connection.execute("CONFIG", "SET", "requirepass", "")


@contextmanager
def clients_paused(deployment: Deployment) -> Iterator[None]:
    deployment.execute("CLIENT", "PAUSE", "300", "ALL")
    yield


@contextmanager
def wire_slow(deployment: Deployment) -> Iterator[None]:
    deployment.wire.delay_s = 0.1
    yield
    deployment.wire.delay_s = 0.0


def spoilt(spoiler: bad_wire.Spoiler) -> Callable[[Deployment], AbstractContextManager[None]]:
    @contextmanager
    def fault(deployment: Deployment) -> Iterator[None]:
        deployment.wire.spoiler = spoiler
        yield
        deployment.wire.spoiler = None

    fault.__name__ = getattr(spoiler, "__name__", type(spoiler).__name__)
    return fault


FAULTS = (
    sidecar_gone,
    server_killed,
    server_restarted_empty,
    server_stopped,
    server_out_of_memory,
    password_changed,
    clients_paused,
    wire_slow,
    spoilt(bad_wire.cut_half_way),
    spoilt(bad_wire.garbage),
    spoilt(RandomReplies(0, 0.3)),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_an_engine_goes_on_by_the_rule_and_back(
    deployment: Deployment, fault: Callable[[Deployment], AbstractContextManager[None]]
) -> None:
    with ExitStack() as stack:
        loops: list[Loop] = []
        for kind in (SyncLoop, EngineLoop, AsyncioLoop):
            loops.append(kind(deployment.wire.url))
            stack.callback(loops[-1].stop)

        def all_of_them(condition: Callable[[Loop], bool], what: str) -> None:
            for loop in loops:
                wait_until(
                    lambda loop=loop: loop.check() or condition(loop),  # type: ignore[misc]
                    f"{what} for {type(loop).__name__}: {loop.counts}",
                )

        all_of_them(lambda loop: loop.counts.answered > 20, "answers")
        before = {loop: loop.counts for loop in loops}
        with fault(deployment):
            all_of_them(lambda loop: loop.counts.local > before[loop].local + 20, "the rule")
        after = {loop: loop.counts for loop in loops}
        all_of_them(lambda loop: loop.counts.answered > after[loop].answered + 50, "recovery")
        steps = {loop: loop.num_steps for loop in loops}
        all_of_them(
            lambda loop: loop.counts.outcomes_written >= steps[loop] - 1, "outcomes in the log"
        )
    assert all(loop.counts.outcomes_dropped == 0 for loop in loops)
    if fault not in (server_restarted_empty,):
        # Every outcome, once: those sent again after a lost reply, too.
        with RespConnection(deployment.server.url) as connection:
            length = connection.execute("XLEN", RedisKeys().outcomes)
        assert length == sum(loop.counts.outcomes_written for loop in loops)
