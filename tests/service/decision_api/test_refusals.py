"""What is not taken, and what is said of it."""

from __future__ import annotations

import copy
import json
import socket
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from rlkv_engine.errors import InputError
from rlkv_service.columns import request_of
from rlkv_service.decision_api.decision_bodies import read_decisions
from rlkv_service.decision_api.examples import CALL, OUTCOME
from rlkv_service.decision_api.options import ApiOptions
from rlkv_service.schema import encode
from tests.service.decision_api.running_api import Api, problem_of, running_api

Change = Callable[[Any], object]


@pytest.mark.parametrize(
    ("change", "pointer", "said"),
    [
        (lambda b: b.pop("engine_id"), "/engine_id", "engine_id: is missing"),
        (lambda b: b.update(engine_id=7), "/engine_id", "expected `str`, got `int`"),
        (lambda b: b.update(engine_id="x" * 257), "/engine_id", "length <= 256"),
        (lambda b: b.update(rows=[]), "/rows", "length >= 1"),
        (lambda b: b.update(rows=b["rows"] * 1025), "/rows", "length <= 1024"),
        (lambda b: b["rows"][0].update(turn=-1), "/rows/0/turn", ">= 0"),
        (lambda b: b["rows"][0].update(turn=2**31), "/rows/0/turn", "<= 2147483647"),
        (lambda b: b["rows"][0].update(point="LATER"), "/rows/0/point", "'LATER'"),
        (lambda b: b["rows"][0].update(rank=-0.5), "/rows/0/rank", "rank: cannot be -0.5"),
        (lambda b: b["rows"][0].update(rank=None), "/rows/0/rank", "got `null`"),
        (lambda b: b["rows"][0].update(rank=10**400), "/rows/0/rank", "number out of range"),
        (lambda b: b["machine"].update(block_size=0), "/machine/block_size", "cannot be 0"),
        (lambda b: b["memory"].pop("free_blocks"), "/memory/free_blocks", "is missing"),
        (lambda b: b["memory"].update(num_new=-3), "/memory/num_new", "num_new: cannot be -3"),
    ],
)
def test_a_wrong_field_of_a_decision(api: Api, change: Change, pointer: str, said: str) -> None:
    body = copy.deepcopy(CALL)
    change(body)
    told = problem_of(api.post("/v1/decisions", body), 422, "field")
    assert said in told["detail"]
    assert told["errors"] == [{"pointer": f"#{pointer}", "detail": told["detail"]}]


def test_the_row_that_is_wrong_is_named(api: Api) -> None:
    body = copy.deepcopy(CALL)
    body["rows"] = [body["rows"][0] | {"session": str(i)} for i in range(9)]
    body["rows"][7]["wait_s"] = -2
    told = problem_of(api.post("/v1/decisions", body), 422, "field")
    assert told["detail"] == "rows/7/wait_s: cannot be -2"


@pytest.mark.parametrize(
    ("change", "pointer", "said"),
    [
        (lambda b: b["outcomes"][0].pop("pause_s"), "/outcomes/0/pause_s", "is missing"),
        (lambda b: b["outcomes"][0].update(pause_s=-1), "/outcomes/0/pause_s", "cannot be -1"),
        (lambda b: b["outcomes"][0].update(ended_s=1e12), "/outcomes/0/ended_s", "be 1e+12"),
        (lambda b: b["outcomes"][0].update(verb="EAT"), "/outcomes/0/verb", "'EAT'"),
        (lambda b: b["outcomes"][0].update(turn=10**30), "/outcomes/0/turn", "<= 2147483647"),
        (lambda b: b.update(outcomes=[]), "/outcomes", "length >= 1"),
    ],
)
def test_a_wrong_field_of_an_outcome(api: Api, change: Change, pointer: str, said: str) -> None:
    body = copy.deepcopy(OUTCOME)
    change(body)
    told = problem_of(api.post("/v1/outcomes", body), 422, "field")
    assert said in told["detail"]
    assert told["errors"][0]["pointer"] == f"#{pointer}"


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("", "?engine_id"),
        ("?engine_id=" + "x" * 257, "?engine_id"),
        ("?engine_id=e&turn=-1", "?turn"),
        ("?engine_id=e&turn=2147483648", "?turn"),
        ("?engine_id=e&input_tokens=%D9%A3", "?input_tokens"),
        ("?engine_id=e&output_tokens=1e3", "?output_tokens"),
    ],
)
def test_a_wrong_field_of_an_end(api: Api, query: str, pointer: str) -> None:
    told = problem_of(api.http.delete(f"/v1/sessions/s{query}"), 422, "field")
    assert told["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize("path", ["/v1/decisions", "/v1/outcomes"])
def test_another_version_is_refused_with_both(api: Api, path: str) -> None:
    # Whatever else a newer version has changed.
    told = problem_of(api.post(path, {"v": 2, "asked": []}), 422, "version")
    assert told["detail"] == "a message of version 2, this rlkv reads 1"
    assert told["errors"][0]["pointer"] == "#/v"


def test_another_version_of_columns_is_refused_with_both(api: Api) -> None:
    message = msgspec.msgpack.encode({"v": 3, "id": 1, "rows": 7})
    told = problem_of(post_columns(api, message), 422, "version")
    assert told["detail"] == "a message of version 3, this rlkv reads 1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"not json",
        b'{"engine_id":"\xff"}',
        b'{"engine_id":"\\ud800"}',
        b'{"x":' + b"[" * 100_000,
        b'{"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"machine":{"block_size":NaN}}',
    ],
)
@pytest.mark.parametrize("path", ["/v1/decisions", "/v1/outcomes"])
def test_what_is_no_json(api: Api, path: str, body: bytes) -> None:
    assert problem_of(api.post(path, body), 400, "unreadable")["detail"]


@pytest.mark.parametrize("body", [b"[]", b"null", b"7", b'"text"', b"{}"])
def test_json_that_is_something_else(api: Api, body: bytes) -> None:
    problem_of(api.post("/v1/decisions", body), 422, "field")


def post_columns(api: Api, content: bytes) -> Any:
    return api.http.post(
        "/v1/decisions", content=content, headers={"content-type": "application/msgpack"}
    )


def test_columns_that_are_wrong(api: Api) -> None:
    engine_id, rows, _ = read_decisions(json.dumps(CALL).encode())
    message = request_of(rows, engine_id, 1)
    message.facts["free_blocks"] = message.facts["free_blocks"][:-1]
    told = problem_of(post_columns(api, encode(message)), 422, "field")
    assert told["detail"] == "free_blocks has 7 bytes, 1 rows of it have 8"
    problem_of(post_columns(api, b""), 400, "unreadable")
    problem_of(post_columns(api, b"\xc1"), 400, "unreadable")
    problem_of(post_columns(api, b"\x91" * 100_000), 400, "unreadable")
    # A text that is not UTF-8.
    problem_of(post_columns(api, b"\x82\xa1v\x01\xa9engine_id\xa1\xff"), 400, "unreadable")
    lacks = msgspec.msgpack.encode({"v": 1, "id": 1, "type": "decide"})
    assert "engine_id" in problem_of(post_columns(api, lacks), 422, "field")["detail"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_content_types(api: Api, kind: str) -> None:
    for path in ("/v1/decisions", "/v1/outcomes"):
        response = api.post(path, CALL, **{"content-type": kind})
        problem_of(response, 415, "content-type")


def test_paths_and_methods_that_are_not_there(api: Api) -> None:
    problem_of(api.http.get("/v2/decisions"), 404, "not-found")
    problem_of(api.http.post("/v1/decisions/"), 404, "not-found")
    response = api.http.get("/v1/decisions")
    problem_of(response, 405, "method")
    assert response.headers["allow"] == "POST"


def test_bodies_that_are_too_large(api: Api) -> None:
    with running_api(api.service, ApiOptions(max_body_bytes=1000)) as small:
        assert small.post("/v1/decisions", CALL).status_code == 200
        told = problem_of(small.post("/v1/decisions", b" " * 300_000), 413, "too-large")
        assert told["detail"] == "the body is 300000 bytes, at most 1000 bytes are read"

        def pieces() -> Any:
            yield from [b" " * 400] * 400

        response = small.http.post(
            "/v1/outcomes", content=pieces(), headers={"content-type": "application/json"}
        )
        problem_of(response, 413, "too-large")


def test_a_body_that_is_announced_is_refused_before_it_is_sent(api: Api) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    head = (
        b"POST /v1/decisions HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
        b"Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=30.0) as connection:
        connection.sendall(head)
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"requests_per_s": 0.0}, "requests per second must be above 0"),
        ({"requests_per_s": float("nan")}, "requests per second must be above 0"),
        ({"max_body_bytes": 0}, "at least 1 byte"),
        ({"max_listeners": -1}, "at least 0"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ApiOptions(**options)
