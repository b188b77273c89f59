"""What is asked over HTTP, and what is answered."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from rlkv_engine.facts import FACTS
from rlkv_service.columns import request_of, verdict_rows_of
from rlkv_service.decision_api.decision_bodies import read_decisions, write_verdicts
from rlkv_service.decision_api.examples import CALL, OFFER, OUTCOME
from rlkv_service.resp import RespConnection
from rlkv_service.schema import Outcome, Reason, SessionEnd, Verb, Verdicts, decode, encode
from tests.service.decision_api.running_api import Api
from tests.service.decision_api.traffic import traffic

MSGPACK = {"content-type": "application/msgpack"}


def logged(api: Api) -> list[bytes]:
    with RespConnection(api.service.url) as connection:
        entries = connection.execute("XRANGE", api.service.keys.outcomes, "-", "+")
    return [fields[1] for _, fields in entries]


def test_json_and_columns_get_the_verdicts_of_the_service(api: Api) -> None:
    feed = traffic(1)
    for _ in range(5):
        body = next(feed)[0]
        engine_id, rows, _ = read_decisions(json.dumps(body).encode())
        expected = api.service.decide(engine_id, rows)

        told = api.post("/v1/decisions", body).json()
        assert told["policy_version"] == expected.policy_version
        for i, row in enumerate(told["verdicts"]):
            assert (row["session"], row["turn"]) == (rows.sessions[i], rows.turns[i])
            assert Verb[row["verb"]] == expected.verb[i]
            assert Verb[row["policy_verb"]] == expected.policy_verb[i]
            assert Reason[row["reason"]] == expected.reason[i]
            assert row["fallback_used"] == bool(expected.fallback_used[i])
            assert np.isclose(row["confidence"], expected.confidence[i], atol=1e-6)
            assert np.isclose(row["lease_s"], expected.lease_s[i], atol=1e-6)

        answer = api.http.post(
            "/v1/decisions", content=encode(request_of(rows, engine_id, 77)), headers=MSGPACK
        )
        assert answer.headers["content-type"] == "application/msgpack"
        message = decode(answer.content, Verdicts)
        assert message.id == 77
        columns = verdict_rows_of(message, len(rows))
        np.testing.assert_array_equal(columns.verb, expected.verb)
        np.testing.assert_array_equal(columns.confidence, expected.confidence)


def test_every_fact_has_its_place() -> None:
    body = copy.deepcopy(OFFER)
    body["rows"] = body["rows"][:1]
    for i, fact in enumerate(FACTS):
        if fact.name == "point":
            continue
        for group in (body["machine"], body["memory"], body["rows"][0]):
            group.pop(fact.name, None)
            # Where it does not belong it is a name that nobody knows.
            group[fact.name] = 0.5
        _, rows, _ = read_decisions(json.dumps(body).encode())
        assert rows.facts[0, i] == 0.5, fact.name
    assert (rows.facts[0] == 0.5).sum() == len(FACTS) - 1


def test_what_is_left_out_or_null_is_unknown(api: Api) -> None:
    body = copy.deepcopy(CALL)
    _, rows, _ = read_decisions(json.dumps(body).encode())
    body["rows"][0] |= {"remaining_s": None, "life_s": None, "note": {"of": ["mine"]}}
    body["machine"] |= {"mean_pause_s": None, "color": "blue"}
    body["comment"] = "unknown fields are ignored"
    _, same, _ = read_decisions(json.dumps(body).encode())
    np.testing.assert_array_equal(rows.facts, same.facts)
    assert np.isnan(rows.facts).any()
    assert api.post("/v1/decisions", body).status_code == 200


def test_what_json_has_no_number_for_is_null(api: Api) -> None:
    engine_id, rows, _ = read_decisions(json.dumps(CALL).encode())
    verdicts = api.service.decide(engine_id, rows)
    verdicts.lease_s[:] = np.inf
    told = json.loads(write_verdicts(rows, replace(verdicts, rule_verb=np.zeros(0, np.int8))))
    assert told["verdicts"][0]["lease_s"] is None
    assert told["verdicts"][0]["rule_verb"] is None


def test_outcomes_are_in_the_log_once(api: Api) -> None:
    body = copy.deepcopy(OUTCOME)
    body["engine_id"] = "once"
    body["outcomes"].append(body["outcomes"][0] | {"turn": 4, "verb": None})
    before = len(logged(api))
    assert api.post("/v1/outcomes", body).json() == {"accepted": 2, "new": 2}
    assert api.post("/v1/outcomes", body).json() == {"accepted": 2, "new": 0}
    first, second = (decode(raw, Outcome) for raw in logged(api)[before:])
    assert (first.engine_id, first.session, first.turn) == ("once", "chat-17", 3)
    assert (first.pause_s, first.reused_device_tokens, first.verb) == (1.9, 6192, Verb.PRESERVE)
    assert (second.turn, second.verb) == (4, -1)


def test_a_session_ends_once(api: Api) -> None:
    before = len(logged(api))
    path = "/v1/sessions/with%2Fslash%20and%20more?engine_id=e%261&turn=5"
    told = {"session": "with/slash and more", "engine_id": "e&1"}
    assert api.http.delete(path).json() == told | {"new": True}
    assert api.http.delete(path).json() == told | {"new": False}
    (raw,) = logged(api)[before:]
    end = decode(raw, SessionEnd)
    assert (end.session, end.engine_id, end.turn) == ("with/slash and more", "e&1", 5)


def test_the_policy_says_what_it_is(api: Api) -> None:
    told = api.http.get("/v1/policy").json()
    assert told["version"] == api.service.policy.version
    assert not told["shadow"] and told["metadata"]["name"] == "universal"


def test_it_lives_and_is_ready(api: Api) -> None:
    for path in ("/healthz", "/readyz"):
        response = api.http.get(path)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_metrics_count_what_was_asked(api: Api) -> None:
    def figures() -> dict[str, float]:
        lines = api.http.get("/metrics").text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    before = figures()
    verdict = api.post("/v1/decisions", CALL).json()["verdicts"][0]
    api.post("/v1/decisions", {"engine_id": 1})
    after = figures()
    who = "rule" if verdict["fallback_used"] else "policy"
    for name in (
        f'rlkv_decisions_total{{decided_by="{who}",verb="{verdict["verb"]}"}}',
        f'rlkv_decision_reasons_total{{reason="{verdict["reason"]}"}}',
        'rlkv_requests_total{result="answered"}',
        'rlkv_requests_total{result="malformed"}',
        "rlkv_decision_seconds_count",
        'rlkv_decision_seconds_bucket{le="+Inf"}',
    ):
        assert after[name] == before[name] + 1, name
    asked = 'rlkv_http_requests_total{path="/v1/decisions",status="422"}'
    assert after[asked] == before.get(asked, 0) + 1
    for name in (
        "rlkv_confidence_ratio_sum",
        'rlkv_outcomes_total{kind="outcome"}',
        "rlkv_queue_requests",
        f'rlkv_policy_info{{version="{api.service.policy.version}"}}',
        'rlkv_bundle_reloads_total{result="loaded"}',
        "rlkv_log_failures_total",
        "rlkv_shadow_departures_total",
        'rlkv_http_request_seconds_count{path="/v1/decisions"}',
    ):
        assert name in after


def test_every_example_of_the_document_runs(api: Api) -> None:
    document: dict[str, Any] = msgspec.json.decode(api.http.get("/openapi.json").content)
    sent = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parameters = operation.get("parameters", [])
            given = {each["name"]: each["example"] for each in parameters if "example" in each}
            url = path.format(**given)
            query = {each["name"]: given[each["name"]] for each in parameters
                     if each["in"] == "query" and each["name"] in given}  # fmt: skip
            content = operation.get("requestBody", {}).get("content", {})
            examples = content.get("application/json", {}).get("examples", {})
            if content:
                assert examples, f"{method} {path} has no example"
            elif path == "/v1/events":
                continue  # has no end
            for body in [each["value"] for each in examples.values()] or [None]:
                response = api.http.request(method.upper(), url, params=query, json=body)
                assert response.status_code == 200, response.text
                sent += 1
    assert sent >= 10
