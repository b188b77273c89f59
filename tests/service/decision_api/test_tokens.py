"""Who may ask, and how often."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkv_engine.errors import InputError
from rlkv_service.decision_api.examples import CALL
from rlkv_service.decision_api.guards import OPEN_PATHS
from rlkv_service.decision_api.options import ApiOptions
from rlkv_service.decision_api.rate_limit import RateLimit
from rlkv_service.decision_api.tokens import TokenFile, add_token, read_tokens
from tests.service.decision_api.running_api import Api, problem_of, running_api


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_a_token_is_kept_as_a_hash_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    first, second = add_token(path, "engine-0"), add_token(path, "me@work", 2.5)
    assert first != second and len(first) == len("rlkv_") + 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first not in path.read_text() and second not in path.read_text()
    tokens = TokenFile(path)
    found = tokens.find(second)
    assert found is not None and (found.name, found.requests_per_s) == ("me@work", 2.5)
    for wrong in ("", first[:-1], first + "x", first.upper(), "\x00", "é"):
        assert tokens.find(wrong) is None


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    first = add_token(path, "first")
    tokens = TokenFile(path)
    second = add_token(path, "second")
    assert tokens.find(second) is not None
    good = path.read_text()
    path.write_text("# nobody\n" + good.splitlines()[1])
    assert tokens.find(first) is None and tokens.find(second) is not None
    # What cannot be read lets nobody in, until it can be.
    path.write_text("something else")
    assert tokens.find(second) is None
    assert tokens.problem == f"{path}:1: not NAME sha256:HEX [REQUESTS_PER_S]"
    path.unlink()
    assert tokens.find(second) is None
    assert tokens.problem == f"{path}: cannot be read: No such file or directory"
    path.write_text(good)
    assert tokens.find(first) is not None and tokens.problem is None


GOOD = "a sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no token in it"),
        (b"# a comment\n\n", "no token in it"),
        (b"a\n", ":1: not NAME sha256:HEX"),
        (b"# x\na sha256:" + b"0" * 63, ":2: not NAME sha256:HEX"),
        (b"a scrypt:" + b"0" * 64, ":1: not NAME"),
        (GOOD.encode() + b" -1", ":1: '-1' is no number of requests"),
        (GOOD.encode() + b" fast", ":1: 'fast' is no number of requests"),
        (GOOD.encode() + b" 1 2", ":1: not NAME"),
        (f"{GOOD}\n{GOOD}".encode(), ":2: a is there twice"),
        (b"\xff", "cannot be read"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        TokenFile(path)
    assert str(path) in str(error.value)


def test_tokens_that_cannot_be_made(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    for name in ("", "a b", "-a", "x" * 65, "a\nb", "é"):
        with pytest.raises(InputError, match="is no name"):
            add_token(path, name)
    with pytest.raises(InputError, match="above 0"):
        add_token(path, "a", 0.0)
    assert not path.exists()
    add_token(path, "a")
    with pytest.raises(InputError, match="a token of a already"):
        add_token(path, "a")
    with pytest.raises(InputError, match="cannot be written: No such file"):
        add_token(tmp_path / "no" / "tokens", "a")


def test_a_line_without_an_end_is_ended_first(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(GOOD)
    add_token(path, "b")
    assert [token.name for token in read_tokens(path)] == ["a", "b"]


def test_whoever_has_no_token_gets_nothing(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    token = add_token(path, "me")
    with running_api(api.service, ApiOptions(path)) as guarded:
        document = guarded.http.get("/openapi.json").json()
        for template, operations in document["paths"].items():
            url = template.format(session_id="s")
            for method, operation in operations.items():
                assert operation["security"] == ([] if url in OPEN_PATHS else [{"token": []}])
                if url in OPEN_PATHS:
                    assert guarded.http.request(method, url).status_code == 200
                    continue
                for headers in ({}, bearer("rlkv_wrong"), {"authorization": f"Basic {token}"}):
                    response = guarded.http.request(method, url, headers=headers)
                    problem_of(response, 401, "unauthorized")
                    assert response.headers["www-authenticate"] == "Bearer"
        assert guarded.post("/v1/decisions", CALL, **bearer(token)).status_code == 200
        # Bytes that no header should have.
        raw = {b"authorization": b"Bearer \xff\xfe"}
        problem_of(guarded.http.get("/v1/policy", headers=httpx.Headers(raw)), 401, "unauthorized")
        # Taken away while it runs.
        path.write_text(GOOD)
        problem_of(guarded.post("/v1/decisions", CALL, **bearer(token)), 401, "unauthorized")
        assert guarded.http.get("/readyz").status_code == 200
        os.truncate(path, 5)
        told = problem_of(guarded.http.get("/readyz"), 503, "not-ready")
        assert "not NAME sha256:HEX" in told["detail"]


def test_whoever_asks_too_often_has_to_wait(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    slow, fast = add_token(path, "slow", 0.01), add_token(path, "fast")
    with running_api(api.service, ApiOptions(path)) as guarded:
        assert guarded.http.get("/v1/policy", headers=bearer(slow)).status_code == 200
        response = guarded.http.get("/v1/policy", headers=bearer(slow))
        told = problem_of(response, 429, "rate")
        assert told["detail"] == "slow may ask 0.01 times a second"
        assert 90 <= int(response.headers["retry-after"]) <= 100
        assert guarded.http.get("/v1/policy", headers=bearer(fast)).status_code == 200


@given(
    st.lists(st.floats(0.0, 3.0), min_size=1, max_size=200),
    st.floats(0.1, 20.0),
)
def test_no_window_has_more_than_its_share(pauses_s: list[float], requests_per_s: float) -> None:
    now_s = 0.0
    limit = RateLimit(lambda: now_s)
    passed_s = []
    for pause_s in pauses_s:
        now_s += pause_s
        wait_s = limit.wait_s("me", requests_per_s)
        if wait_s == 0.0:
            passed_s.append(now_s)
            continue
        # Whoever waits as long as told gets through.
        now_s += wait_s * (1.0 + 1e-9)
        assert limit.wait_s("me", requests_per_s) <= 1e-6
        passed_s.append(now_s)
    size = max(1.0, requests_per_s)
    for i, begin_s in enumerate(passed_s):
        for j in range(i, len(passed_s)):
            allowed = size + requests_per_s * (passed_s[j] - begin_s)
            assert j - i + 1 <= allowed + 1e-6


def test_others_are_not_reached_without_a_token(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        ApiOptions().check_host(host)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""):
        with pytest.raises(InputError, match="can be reached by others: give --token-file"):
            ApiOptions().check_host(host)
        ApiOptions(tmp_path / "tokens").check_host(host)
