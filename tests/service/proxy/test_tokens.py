"""Who may ask, and whose key the backend sees."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from rlkv_engine.errors import InputError
from rlkv_service.decision_api.tokens import add_token
from rlkv_service.proxy.backend_url import BackendURL
from rlkv_service.proxy.options import ProxyOptions
from tests.service.proxy.raw_backend import RawBackend
from tests.service.proxy.running_proxy import running_proxy


def test_a_token_is_asked_for_and_stays_here(backend: RawBackend, tmp_path: Path) -> None:
    token = add_token(tmp_path / "tokens", "me")
    shown = {"Authorization": f"Bearer {token}"}
    with running_proxy(backend.url, token_file=tmp_path / "tokens") as proxy:
        for headers in ({}, {"Authorization": "Bearer other"}):
            for path in ("/v1/models", "/", "/healthz", "/rlkv/metrics"):
                assert httpx.get(proxy.url + path, headers=headers).status_code == 401
        assert httpx.get(proxy.url + "/rlkv/healthz").status_code == 200
        assert backend.requests.empty()
        assert httpx.get(proxy.url + "/v1/models", headers=shown).status_code == 200
        assert not backend.taken().all(b"authorization")
        assert httpx.get(proxy.url + "/rlkv/metrics", headers=shown).status_code == 200


def test_the_backend_is_shown_its_own_key(backend: RawBackend, tmp_path: Path) -> None:
    token = add_token(tmp_path / "tokens", "me")
    shown = {"Authorization": f"Bearer {token}", "x-api-key": "theirs"}
    with running_proxy(backend.url, token_file=tmp_path / "tokens", backend_key="secret") as proxy:
        assert httpx.get(proxy.url, headers=shown).status_code == 200
        request = backend.taken()
        assert request.all(b"authorization") == [b"Bearer secret"]
        assert request.all(b"x-api-key") == [b"theirs"]


def test_others_are_let_in_with_a_token_only(tmp_path: Path) -> None:
    url = BackendURL.parse("http://127.0.0.1:1")
    ProxyOptions(url=url).check_host("127.0.0.1")
    ProxyOptions(url=url, token_file=tmp_path).check_host("0.0.0.0")
    with pytest.raises(InputError, match=r"0\.0\.0\.0 can be reached by others: give --token-file"):
        ProxyOptions(url=url).check_host("0.0.0.0")


@pytest.mark.parametrize(
    ("said", "shown", "authority"),
    [
        ("http://localhost:8000", "http://localhost:8000", "localhost:8000"),
        ("https://api.example.org/base/", "https://api.example.org/base", "api.example.org"),
        ("http://[::1]:80/", "http://[::1]", "[::1]"),
    ],
)
def test_urls(said: str, shown: str, authority: str) -> None:
    url = BackendURL.parse(said)
    assert (str(url), url.authority) == (shown, authority)


@pytest.mark.parametrize(
    "said",
    ["", "localhost:8000", "ftp://x", "http://", "http://a:b", "http://u:p@a", "http://a/?q=1",
     "http://a/b c", "http://a/\r\nX: y", "http://a:99999"],
)  # fmt: skip
def test_what_is_no_url(said: str) -> None:
    with pytest.raises(InputError):
        BackendURL.parse(said)
