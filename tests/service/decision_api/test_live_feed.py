"""What the live page is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import httpx
import numpy as np
import pytest

from rlkv_service.decision_api.examples import CALL, OFFER, OUTCOME
from rlkv_service.decision_api.live_figures import within
from rlkv_service.decision_api.live_regret import RegretBook
from rlkv_service.decision_api.live_tools import LiveTools
from rlkv_service.decision_api.options import ApiOptions
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.resp import RespConnection
from rlkv_service.schema import SCHEMA_VERSION, Outcome
from rlkv_service.sidecar.counters import Histogram
from rlkv_service.sidecar.recent import RecentDecision
from tests.service.decision_api.running_api import (
    PATIENCE_S,
    Api,
    new_service,
    problem_of,
    running_api,
)


@contextmanager
def listening(api: Api) -> Iterator[Iterator[dict[str, Any]]]:
    with api.http.stream("GET", "/v1/events") as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = (line for line in response.iter_lines() if line)
        yield (json.loads(line.removeprefix("data: ")) for line in lines)


def wait_for(
    events: Iterator[dict[str, Any]], holds: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    until_s = time.monotonic() + PATIENCE_S
    for event in events:
        if holds(event):
            return event
        assert time.monotonic() < until_s, event
    raise AssertionError("the stream has ended")


def test_it_tells_what_happens(valkey: EmbeddedValkey) -> None:
    service = new_service(valkey.url, shadow=True)
    with running_api(service) as api, listening(api) as events:
        first = next(events)
        assert first["policy"]["shadow"] and first["store_problem"] == ""
        assert (first["pools"], first["tools"], first["latest"]) == ([], [], [])
        assert api.post("/v1/decisions", CALL).status_code == 200
        told = api.post("/v1/decisions", OFFER).json()["verdicts"]
        seen = wait_for(events, lambda event: event["decisions"] == 3)
        assert seen["requests"]["answered"] == 2
        assert sum(seen["reasons"].values()) == 3
        assert sum(map(sum, seen["history"])) == pytest.approx(3, abs=0.5)
        (pools,) = seen["pools"]
        assert (pools["engine_id"], pools["device_blocks"]) == ("engine-0", 25243)
        assert (pools["free_blocks"], pools["paused_blocks"]) == (12, 9000)
        assert [each["session"] for each in seen["latest"]] == ["chat-9", "chat-17", "chat-17"]
        assert seen["latest"][0]["verb"] == told[1]["verb"]

        api.post("/v1/outcomes", OUTCOME)
        with RespConnection(valkey.url) as connection:
            said = json.dumps({"at_s": time.time(), "policy_version": "a@1"})
            connection.execute("HSET", service.keys.sidecars, "host:1:ff", said)
            connection.execute("HSET", service.keys.sidecars, "broken", "{")
        seen = wait_for(events, lambda event: bool(event["regret"] and event["sidecars"]))
        (tool,) = seen["tools"]
        assert (tool["tool"], tool["pauses"], tool["seen_p50_s"]) == ("search", 1, 1.9)
        (regret,) = seen["regret"]
        assert (regret["pauses"], regret["mean_delay_s"]) == (1, 0.06)
        (sidecar,) = seen["sidecars"]
        assert (sidecar["sidecar_id"], sidecar["policy_version"]) == ("host:1:ff", "a@1")

        valkey.kill()
        assert wait_for(events, lambda event: event["store_problem"] != "")["tools"]


def test_there_may_be_so_many_listeners(api: Api) -> None:
    with running_api(api.service, ApiOptions(max_listeners=2)) as small:
        with listening(small) as one, listening(small) as two:
            assert next(one) and next(two)
            response = small.http.get("/v1/events")
            told = problem_of(response, 429, "listeners")
            assert "2 listen already" in told["detail"]
            assert int(response.headers["retry-after"]) >= 1
        # Who leaves makes room.
        until_s = time.monotonic() + PATIENCE_S
        while True:
            with small.http.stream("GET", "/v1/events") as response:
                if response.status_code == 200:
                    return
            assert time.monotonic() < until_s


def test_streams_end_with_the_server(api: Api) -> None:
    with httpx.Client(timeout=PATIENCE_S) as http:
        with running_api(api.service) as other:
            response = http.send(http.build_request("GET", f"{other.url}/v1/events"), stream=True)
            lines = response.iter_lines()
            assert next(lines).startswith("data: ")
        # Whatever is left of it, it has an end.
        assert len(list(islice(lines, 100))) < 100
        response.close()


def decision(turn: int, rule_verb: str, policy_verb: str) -> RecentDecision:
    return RecentDecision(
        0.0, "e", "s", turn, "tool", "CALL", rule_verb, "SHADOW", rule_verb, policy_verb, 0.5, 1,
        1.0, 2.0,
    )  # fmt: skip


def outcome(turn: int, delay_s: float, tool: str = "tool", pause_s: float = 1.0) -> Outcome:
    return Outcome(SCHEMA_VERSION, "e", "s", turn, tool, pause_s, 1, delay_s=delay_s)


def test_regret_joins_verdicts_with_outcomes() -> None:
    book = RegretBook()
    book.decided([decision(0, "SWAP", "SWAP"), decision(1, "SWAP", "DISCARD")])
    # Asked again about a pause, and of one mind this time: once they were not.
    book.decided([decision(1, "SWAP", "SWAP"), decision(2, "SWAP", "SWAP")])
    for turn, delay_s in ((0, 0.5), (1, 3.0), (2, 1.5), (2, 9.0), (7, 9.0)):
        book.came_out(outcome(turn, delay_s))
    rows = [(row.rule_verb, row.policy_verb, row.pauses, row.mean_delay_s) for row in book.rows()]
    assert rows == [("SWAP", "SWAP", 2, 1.0), ("SWAP", "DISCARD", 1, 3.0)]


def test_books_are_bounded() -> None:
    book, tools = RegretBook(), LiveTools()
    book.decided(decision(turn, "SWAP", "SWAP") for turn in range(30_000))
    for turn in range(30_000):
        book.came_out(outcome(turn, 1.0))
        tools.add(outcome(turn, 1.0, tool=f"tool-{turn}", pause_s=float(turn)))
    assert book.rows()[0].pauses == 5_000
    assert len(tools.slowest(1000, None)) == 256
    assert tools.slowest(1, None)[0].tool == "tool-29999"


def test_quantiles_of_a_histogram() -> None:
    histogram = Histogram((1.0, 2.0, 4.0), (0, 50, 50, 0), 0.0)
    assert within(histogram, 0.5) == pytest.approx(2.0)
    assert within(histogram, 0.25) == pytest.approx(1.5)
    assert within(histogram, 0.75) == pytest.approx(3.0)
    assert within(Histogram((1.0,), (0, 3), 0.0), 0.5) == 1.0
    assert within(Histogram((1.0,), (0, 0), 0.0), 0.5) is None
    values = np.random.default_rng(0).uniform(0.0, 4.0, 10_000)
    counts = np.bincount(np.digitize(values, (1.0, 2.0, 4.0)), minlength=4)
    told = within(Histogram((1.0, 2.0, 4.0), tuple(counts.tolist()), 0.0), 0.9)
    assert told == pytest.approx(np.quantile(values, 0.9), abs=0.05)
