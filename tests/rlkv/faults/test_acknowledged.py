"""Nothing is acknowledged and lost, and nothing is counted twice: over HTTP, over Redis, both."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path

import httpx

from rlkv.sidecar_process import SidecarProcess
from rlkv_agents.bundle import save_bundle
from rlkv_service.client import Client, Outcome
from rlkv_service.decision_log.entries import decode_outcome
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from tests.agents.small_scenario import random_network
from tests.rlkv.faults.system import KEYS
from tests.service.client.asking import wait_until

NUM_OUTCOMES = 600
PATIENCE_S = 60.0
#: Over HTTP one report has so many.
AT_A_TIME = 5


class Reporters:
    """Two over HTTP and two over Redis, who report the same outcomes, each until it is told so."""

    def __init__(self, sidecar: SidecarProcess) -> None:
        self.sidecar = sidecar
        self.accepted: list[set[int]] = [set() for _ in range(4)]  # turns, by reporter
        self.num_new = 0  # as HTTP says
        self.num_refused = 0
        self.end = 0  # nobody goes further for now
        self._error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._guarded, args=(number,), daemon=True)
            for number in range(4)
        ]
        for thread in self._threads:
            thread.start()

    def all_accepted(self, num: int) -> bool:
        """Whether each reporter was told so often that the server has it."""
        if self._error is not None:
            raise AssertionError("a reporter has failed") from self._error
        return all(len(turns) >= num for turns in self.accepted)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        assert self.all_accepted(NUM_OUTCOMES)

    def _guarded(self, number: int) -> None:
        try:
            self._by_redis(number) if number % 2 else self._by_http(number)
        except BaseException as error:
            self._error = error

    def _by_redis(self, number: int) -> None:
        with Client(self.sidecar.url, engine_id="engine") as client:
            for turn in range(NUM_OUTCOMES):
                self._wait_for_leave(turn)
                outcome = Outcome(1, "engine", "s", turn, "tool", 1.5, 100)
                while not client.report([outcome], deadline_ms=50.0):
                    self.num_refused += 1
                self.accepted[number].add(turn)

    def _by_http(self, number: int) -> None:
        with httpx.Client(trust_env=False, timeout=20.0) as http:
            for first in range(0, NUM_OUTCOMES, AT_A_TIME):
                self._wait_for_leave(first)
                turns = range(first, first + AT_A_TIME)
                rows = [
                    {"session": "s", "turn": turn, "tool": "tool", "pause_s": 1.5,
                     "context_tokens": 100}
                    for turn in turns
                ]  # fmt: skip
                while (new := self._post(http, rows)) is None:
                    self.num_refused += 1
                self.num_new += new
                self.accepted[number].update(turns)

    def _wait_for_leave(self, turn: int) -> None:
        wait_until(lambda: turn < self.end, "they may go on", PATIENCE_S)

    def _post(self, http: httpx.Client, rows: list[dict[str, object]]) -> int | None:
        """How many were new, by a server that has accepted them."""
        url = f"{self.sidecar.http_url}/v1/outcomes"
        try:
            response = http.post(url, json={"engine_id": "engine", "outcomes": rows})
        except httpx.TransportError:
            return None  # killed
        if response.status_code != 200:
            assert response.status_code == 503, response.text
            return None
        told = response.json()
        assert told["accepted"] == len(rows)
        return int(told["new"])


def turns_in_the_log(url: RedisURL) -> Counter[int]:
    with RespConnection(url) as connection:
        entries = connection.execute("XRANGE", KEYS.outcomes, "-", "+")
    return Counter(decode_outcome(fields[1]).turn for _, fields in entries)


def server_pid(url: RedisURL) -> int:
    """Of a server that writes before it replies: with `everysec` it may wait for a slow disk."""
    with RespConnection(url) as connection:
        connection.execute("CONFIG", "SET", "appendfsync", "always")
        told = connection.execute("INFO", "server").decode()
    return int(told.split("process_id:")[1].split()[0])


def test_after_kill_9_of_the_sidecar_and_of_its_server(short_folder: Path) -> None:
    save_bundle(short_folder / "bundle", random_network(), {})
    words = ("--bundle", str(short_folder / "bundle"), "--http", "127.0.0.1:0")
    first = SidecarProcess(*words, data_dir=short_folder / "data")
    url = RedisURL.parse(first.url)
    reporters = Reporters(first)
    reporters.end = 200
    wait_until(lambda: reporters.all_accepted(100), "outcomes are accepted", PATIENCE_S)
    # The server alone: its sidecar starts it again.
    os.kill(server_pid(url), signal.SIGKILL)
    reporters.end = 400
    wait_until(lambda: reporters.all_accepted(250), "the server runs again", PATIENCE_S)
    # Both at once; what was accepted up to now must be there.
    pid = server_pid(url)
    first.kill()
    os.kill(pid, signal.SIGKILL)
    accepted = set[int]().union(*(set(turns) for turns in reporters.accepted))
    with SidecarProcess(*words, data_dir=short_folder / "data") as second:
        logged = turns_in_the_log(url)
        assert accepted <= set(logged) and max(logged.values()) == 1
        reporters.sidecar, reporters.end = second, NUM_OUTCOMES
        reporters.join()
        # By whichever way it came first, and however often it came.
        assert turns_in_the_log(url) == Counter(range(NUM_OUTCOMES))
        assert reporters.num_new <= NUM_OUTCOMES and reporters.num_refused > 0
    first.stop()
