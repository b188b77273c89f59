"""What can go wrong between the real engine and a real ``rlkv serve``, while the engine runs.

In every case: nothing is raised in the engine, its sessions end with the tokens that they have
without a sidecar, each verdict is about the rows that were asked, the rule's count rises, answers
come again by themselves, and every outcome is in the log once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from tests.rlkv.faults.engine_loop import EngineLoop, until_answered, until_local
from tests.rlkv.faults.system import System
from tests.service.client import bad_wire
from tests.service.client.bad_wire import BadWire, Spoiler
from tests.service.client.nonsense import RandomReplies

Fault = Callable[[System], AbstractContextManager[None]]


@contextmanager
def sidecar_killed(system: System) -> Iterator[None]:
    system.sidecar.kill()
    yield
    system.restart_sidecar()


@contextmanager
def sidecar_stopped(system: System) -> Iterator[None]:
    system.sidecar.suspend()
    yield
    system.sidecar.resume()


@contextmanager
def redis_killed(system: System) -> Iterator[None]:
    system.valkey.kill()
    yield
    system.restart_valkey()


@contextmanager
def redis_restarted_empty(system: System) -> Iterator[None]:
    system.valkey.kill()
    yield
    system.restart_valkey(empty=True)


@contextmanager
def redis_stopped(system: System) -> Iterator[None]:
    os.kill(system.valkey.pid, signal.SIGSTOP)
    yield
    os.kill(system.valkey.pid, signal.SIGCONT)


@contextmanager
def redis_out_of_memory(system: System) -> Iterator[None]:
    system.execute("CONFIG", "SET", "maxmemory", 1)
    yield
    system.execute("CONFIG", "SET", "maxmemory", 0)


@contextmanager
def redis_refuses_auth(system: System) -> Iterator[None]:
    system.execute("CONFIG", "SET", "requirepass", "other")
    url = RedisURL(path=system.valkey.url.path, password="other")
    with RespConnection(url) as connection:
        connection.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        yield
        connection.execute("CONFIG", "SET", "requirepass", "")


@contextmanager
def queue_is_no_list(system: System) -> Iterator[None]:
    system.execute("SET", "rlkv:{default}:requests", "nonsense")
    yield
    system.execute("DEL", "rlkv:{default}:requests")


def wire_of(system: System, side: str) -> BadWire:
    return system.engine_wire if side == "engine" else system.sidecar_wire


def slow(side: str) -> Fault:
    @contextmanager
    def fault(system: System) -> Iterator[None]:
        wire = wire_of(system, side)
        wire.delay_s = 0.1
        yield
        wire.delay_s = 0.0

    fault.__name__ = f"slow_by_100_ms_{side}"
    return fault


def spoilt(side: str, spoiler: Spoiler, name: str, *, spoils_commands: bool = False) -> Fault:
    @contextmanager
    def fault(system: System) -> Iterator[None]:
        wire = wire_of(system, side)
        wire.spoils_commands = spoils_commands
        wire.spoiler = spoiler
        yield
        wire.spoiler = None
        wire.spoils_commands = False

    fault.__name__ = f"{name}_{side}"
    return fault


FAULTS = (
    sidecar_killed,
    sidecar_stopped,
    redis_killed,
    redis_restarted_empty,
    redis_stopped,
    redis_out_of_memory,
    redis_refuses_auth,
    queue_is_no_list,
    *(
        fault
        for side in ("engine", "sidecar")
        for fault in (
            slow(side),
            spoilt(side, bad_wire.cut_half_way, "cut_half_way"),
            spoilt(side, bad_wire.cut_half_way, "commands_cut_half_way", spoils_commands=True),
            spoilt(side, bad_wire.garbage, "garbage"),
            spoilt(side, bad_wire.always(b":1\r\n"), "too_many_replies"),
            spoilt(side, RandomReplies(0, 0.3), "other_replies"),
        )
    ),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_engine_goes_on_by_its_rule_and_back(
    system: System, fault: Fault, request: pytest.FixtureRequest
) -> None:
    name = fault.__name__
    with EngineLoop(system.engine_wire.url, name, system.bundles) as engine:
        until_answered([engine], 100)
        paces = [("step_us_before", engine.step_us())]
        with fault(system):
            until_local([engine], 100)
        paces.append(("step_us_meanwhile", engine.step_us()))
        until_answered([engine], 200, "recovery")
        engine.finish()
    request.node.user_properties += paces  # with ``--junitxml``; told, not asserted
    if fault is not redis_restarted_empty:
        reported = system.reported_by(name)
        assert len(reported) == len(set(reported)) == engine.num_reported
