"""Verdicts in the words of other engines, over HTTP."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from rlkv_service.adapters.hints import BACKENDS, Pause, Served, verdict_at
from rlkv_service.decision_api.decision_bodies import read_decisions
from rlkv_service.decision_api.examples import CALL, HINTED, OFFER
from tests.service.decision_api.running_api import Api, problem_of


def asked(**hints: Any) -> dict[str, Any]:
    return copy.deepcopy(CALL) | {"hints": hints}


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_row_comes_in_the_words_that_are_asked_for(api: Api, backend: str) -> None:
    body = copy.deepcopy(OFFER) | {"hints": {"backend": backend}}
    engine_id, rows, _ = read_decisions(json.dumps(body).encode())
    verdicts = api.service.decide(engine_id, rows)
    told = api.post("/v1/decisions", body).json()["verdicts"]
    assert len(told) == len(rows)
    for i, row in enumerate(told):
        pause = Pause(
            session=rows.sessions[i],
            verdict=verdict_at(verdicts, i),
            turn=int(rows.turns[i]),
            tool=rows.tools[i],
        )
        hints = BACKENDS[backend](pause, Served())
        assert row["hints"]["fields"] == hints.fields
        assert row["hints"]["in_process"] == hints.in_process
        assert row["hints"]["headers"] == hints.headers
        assert row["hints"]["lost"] == list(hints.lost)


def test_who_does_not_ask_is_told_nothing(api: Api) -> None:
    (plain,) = api.post("/v1/decisions", CALL).json()["verdicts"]
    (hinted,) = api.post("/v1/decisions", HINTED).json()["verdicts"]
    assert "hints" not in plain
    assert hinted.pop("hints")["fields"]["session_id"] == "chat-17"
    assert hinted == plain
    assert "hints" not in api.post("/v1/decisions", CALL | {"hints": None}).text


def test_what_a_session_shares_and_where_it_is_reach_the_calls(api: Api) -> None:
    row = {"shared_tokens": 0, "token_ids": [1, 2, 3], "ends": True}
    body = asked(backend="lmcache", model="llama", instance_id="node-0", world_size=2, rows=[row])
    (told,) = api.post("/v1/decisions", body).json()["verdicts"]
    (call,) = told["hints"]["calls"]
    assert call == {
        "method": "POST",
        "path": "/cache/delete",
        "server": "lmcache",
        "body": {
            "model_name": "llama", "world_size": 2, "token_ids": [1, 2, 3], "cache_salt": "",
            "instance_id": "node-0", "tier": "all",
        },
        "headers": {},
        "after_s": 0.0,
        "on_return": "skip",
    }  # fmt: skip


def test_what_cannot_be_asked_for_is_named(api: Api) -> None:
    told = problem_of(api.post("/v1/decisions", asked(backend="gpt")), 422, "field")
    assert told["errors"][0]["pointer"] == "#/hints/backend"
    told = problem_of(api.post("/v1/decisions", asked(backend="vllm", rows=[{}, {}])), 422, "field")
    assert told["detail"] == "hints/rows: 2 for 1 rows"
    told = problem_of(
        api.post("/v1/decisions", asked(backend="lmcache", world_size=0)), 422, "field"
    )
    assert told["errors"][0]["pointer"] == "#/hints/world_size"
