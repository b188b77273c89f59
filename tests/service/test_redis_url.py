from __future__ import annotations

import pytest

from rlkv_engine.errors import InputError
from rlkv_service.redis_url import RedisURL


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", RedisURL(host="localhost")),
        ("redis://cache", RedisURL(host="cache")),
        ("redis://cache:7000/2", RedisURL(host="cache", port=7000, db=2)),
        ("redis://:p%40ss@cache", RedisURL(host="cache", password="p@ss")),
        ("redis://me:p@cache", RedisURL(host="cache", username="me", password="p")),
        ("redis://[::1]:7000", RedisURL(host="::1", port=7000)),
        (
            "rediss://cache?ssl_ca_certs=/a.pem&db=1",
            RedisURL(host="cache", tls=True, ssl_ca_certs="/a.pem", db=1),
        ),
        ("unix:///run/a.sock", RedisURL(path="/run/a.sock")),
        (
            "unix://me:p@/run/a.sock?db=3",
            RedisURL(path="/run/a.sock", username="me", password="p", db=3),
        ),
    ],
)
def test_urls_are_read(url: str, expected: RedisURL) -> None:
    assert RedisURL.parse(url) == expected


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://cache", "http:// is not redis://"),
        ("cache:6379/secret", "cache:// is not redis://"),
        ("//me:secret@cache", "without a scheme"),
        ("redis://cache/secret", "database is not a number"),
        ("redis://:se/cret@cache:1", "%2F"),
        ("redis://:se?cret@cache:1", "%3F"),
        ("redis://cache:secret", "its port a number"),
        ("redis://cache:70000", "its port a number"),
        ("unix://", "needs the path"),
        ("rediss://cache?ssl=yes", "option 'ssl' is not one of"),
        ("redis://cache?ssl_ca_certs=/a.pem", "ssl_ca_certs needs rediss://"),
    ],
)
def test_what_is_no_url_is_refused_without_repeating_it(url: str, why: str) -> None:
    with pytest.raises(InputError, match=why) as refused:
        RedisURL.parse(url)
    assert "cret" not in str(refused.value)
    assert refused.value.exit_code == 2


def test_passwords_are_not_shown() -> None:
    for url in (
        "redis://me:secret@[::1]:7000/2", "redis://me:secret@cache:7000",
        "unix://me:secret@/run/a.sock?db=2", "unix://me:secret@/run/a.sock",
    ):  # fmt: skip
        parsed = RedisURL.parse(url)
        assert "secret" not in f"{parsed} {parsed!r}"
        assert str(parsed) == url.replace(":secret", "")
