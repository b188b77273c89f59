"""What asking a sidecar costs: round trips, throughput, tails, and what an engine's loop pays."""

from __future__ import annotations

import gc
import itertools
import socket
import statistics
import threading
import time
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv.bench.engine_pace import engine_paces
from rlkv.bench.measure import Size
from rlkv.sidecar_process import SidecarProcess
from rlkv_agents.rules import make_rule
from rlkv_engine.engine import Engine
from rlkv_engine.facts import POINT
from rlkv_envs.scenario import load_scenario
from rlkv_service.client import Client
from rlkv_service.columns import DecisionRows, request_of
from rlkv_service.redis_keys import MAX_REQUESTS, RedisKeys
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from rlkv_service.resp_parser import encode_command
from rlkv_service.schema import LOCAL_REASONS, Point, encode

#: Decisions of a request.
NUM_ROWS = (1, 16, 128)
#: Connections that ask at once.
NUM_CLIENTS = (1, 8, 64)
DEADLINE_MS = 5.0
#: Engines that ask at once with that deadline, and between two questions of one, seconds.
NUM_ASKING, ASK_EVERY_S = 4, 4e-3
#: Where the server is weighed and not the deadline, answers count though they come late.
_PATIENT_MS = 5000.0
#: Requests that one connection of the throughput has under way.
_UNDER_WAY = 2
SCENARIO = "crossover-slow"


def sidecar(size: Size) -> dict[str, Any]:
    """A real ``rlkv serve`` with the shipped bundle and its own Valkey, on a unix socket."""
    rows = recorded_rows(max(NUM_ROWS))
    # Asking leaves nothing to collect; to look for it in all that a bench has loaded takes 0.1 s.
    gc.collect()
    gc.freeze()
    with ExitStack() as stack:
        stack.callback(gc.unfreeze)
        process = stack.enter_context(SidecarProcess())
        warm_up(process.url, rows)
        figures = _round_trips(process, rows, size)
        for num_clients in NUM_CLIENTS:
            figures |= _throughput(process, rows, num_clients, size)
        figures["decisions_per_s_128"] = max(
            figures[f"decisions_per_s_128_{num_clients}"] for num_clients in NUM_CLIENTS
        )
        figures |= _tail(process, rows, size)
        figures |= engine_paces(process.url, first(rows, 16), size)
        policy = process.policy
    return {
        "figures": figures,
        "measured_on": {
            "policy": policy,
            "decisions": SCENARIO,
            "transport": "unix socket",
            "deadline_ms": DEADLINE_MS,
            "num_requests": size.sidecar_requests,
        },
    }


def recorded_rows(num: int) -> DecisionRows:
    """The first REVISITs of a simulated engine under the house rule."""
    scenario = load_scenario(SCENARIO).with_sessions(400)
    trace = scenario.trace(0, "test")
    table = scenario.table
    engine = Engine(scenario.profile, trace, make_rule("house").params(table), table=table)
    facts: list[NDArray[np.float64]] = []
    sessions, turns, tools = list[str](), list[int](), list[str]()
    while len(facts) < num and (decision := engine.next_decision()) is not None:
        asked = engine.facts()
        if asked[POINT] != Point.CALL:  # of which a policy may know nothing
            names = engine.names_of(np.array([engine.open_slot]))
            facts.append(asked)
            sessions += names.sessions
            turns += names.turns.tolist()
            tools += names.tools
        engine.answer(decision.rule_verb)
    return DecisionRows(sessions, np.array(turns), tools, np.array(facts))


def first(rows: DecisionRows, num: int) -> DecisionRows:
    """The first so many rows."""
    return DecisionRows(rows.sessions[:num], rows.turns[:num], rows.tools[:num], rows.facts[:num])


def warm_up(url: str, rows: DecisionRows) -> None:
    """Asks until every size is answered: what is compiled at first is compiled."""
    with Client(url, engine_id="warm-up", deadline_ms=_PATIENT_MS) as client:
        for num in NUM_ROWS * 3:
            verdicts = client.decide(first(rows, num))
            if not np.isin(verdicts.reason, LOCAL_REASONS).any():
                continue
            raise RuntimeError(f"the sidecar does not answer: reason {verdicts.reason[0]}")


def _round_trips(process: SidecarProcess, rows: DecisionRows, size: Size) -> dict[str, float]:
    # A bare PING on a connection to the same server, by turns with the questions.
    pings: dict[int, list[float]] = {num: [] for num in NUM_ROWS}
    asked: dict[int, list[float]] = {num: [] for num in NUM_ROWS}
    asked_rows = {num: first(rows, num) for num in NUM_ROWS}
    with (
        socket.socket(socket.AF_UNIX) as bare,
        Client(process.url, engine_id="round-trips", deadline_ms=_PATIENT_MS) as client,
    ):
        bare.connect(RedisURL.parse(process.url).path)
        for _, num in itertools.product(range(size.sidecar_requests), NUM_ROWS):
            start_s = time.perf_counter()
            bare.sendall(b"*1\r\n$4\r\nPING\r\n")
            bare.recv(16)
            middle_s = time.perf_counter()
            client.decide(asked_rows[num])
            pings[num].append(middle_s - start_s)
            asked[num].append(time.perf_counter() - middle_s)
    figures = {"ping_us": 1e6 * statistics.median(itertools.chain(*pings.values()))}
    for num in NUM_ROWS:
        ping_s, asked_s = statistics.median(pings[num]), statistics.median(asked[num])
        figures[f"round_trip_{num}_us"] = 1e6 * asked_s
        figures[f"round_trip_{num}_over_ping"] = asked_s / ping_s
    return figures


def _throughput(
    process: SidecarProcess, rows: DecisionRows, num_clients: int, size: Size
) -> dict[str, float]:
    # Requests are encoded before, so that asking takes next to nothing of the cores.
    keys, num_rows = RedisKeys(), max(NUM_ROWS)
    num_requests = max(_UNDER_WAY, size.sidecar_requests // num_clients)
    with RespConnection(RedisURL.parse(process.url)) as redis:
        redis.execute("DEL", keys.requests)
    connections, rounds = [], []
    for client in range(num_clients):
        reply_to = keys.answers(f"throughput-{client}")
        request = request_of(rows, "throughput", 1, reply_to=reply_to)
        ask = encode_command("RPUSH", keys.requests, encode(request))
        connections.append(RespConnection(RedisURL.parse(process.url), timeout_s=60.0))
        rounds.append((ask, encode_command("BLPOP", reply_to, 30)))

    def run(client: int) -> None:
        connection, (ask, take) = connections[client], rounds[client]
        connection.send(_UNDER_WAY * ask)
        for _ in range(_UNDER_WAY):
            connection.receive()
        for i in range(num_requests):
            connection.send(take if i + _UNDER_WAY >= num_requests else ask + take)
            if i + _UNDER_WAY < num_requests:
                connection.receive()
            if connection.receive() is None:
                raise RuntimeError("the sidecar has stopped answering")

    assert num_clients * _UNDER_WAY <= MAX_REQUESTS
    threads = [threading.Thread(target=run, args=(client,)) for client in range(num_clients)]
    cpu_s, start_s = process.cpu_s, time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s, cpu_s = time.perf_counter() - start_s, process.cpu_s - cpu_s
    for connection in connections:
        connection.close()
    decisions = num_clients * num_requests * num_rows
    return {
        f"decisions_per_s_{num_rows}_{num_clients}": decisions / took_s,
        f"decisions_per_sidecar_cpu_s_{num_rows}_{num_clients}": decisions / cpu_s,
    }


def _tail(process: SidecarProcess, rows: DecisionRows, size: Size) -> dict[str, float]:
    # Several engines ask for 16 at a time, each at its own pace, answered or not: one that asked
    # whenever it has a verdict would ask the most while its rule answers, which takes no time.
    took_s: list[float] = []
    late, asked = 0, 0
    lock = threading.Lock()
    mine = first(rows, 16)

    def run(number: int) -> None:
        nonlocal late, asked
        durations = []
        with Client(process.url, engine_id=f"tail-{number}", deadline_ms=DEADLINE_MS) as client:
            ask_s = time.perf_counter() + ASK_EVERY_S * number / NUM_ASKING
            for _ in range(size.sidecar_requests // NUM_ASKING):
                time.sleep(max(0.0, ask_s - time.perf_counter()))
                start_s = time.perf_counter()
                client.decide(mine)
                durations.append(time.perf_counter() - start_s)
                ask_s = max(ask_s + ASK_EVERY_S, start_s)
            counts = client.counts
        with lock:
            took_s.extend(durations)
            late += counts.local
            asked += counts.answered + counts.local

    threads = [threading.Thread(target=run, args=(number,)) for number in range(NUM_ASKING)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p99_s, p999_s = np.percentile(took_s, [99.0, 99.9])
    return {
        "decide_p99_ms": 1e3 * float(p99_s),
        "decide_p999_ms": 1e3 * float(p999_s),
        "answered_in_time_ratio": 1.0 - late / asked,
    }
