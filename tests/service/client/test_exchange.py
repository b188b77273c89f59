"""What an exchange sends, without a server."""

from __future__ import annotations

import time

from rlkv_service.client import BreakerSettings
from rlkv_service.client.address import Address
from rlkv_service.client.client_state import ClientState
from rlkv_service.client.exchange import Exchange
from rlkv_service.client.line import Line
from rlkv_service.resp_parser import RespParser
from rlkv_service.schema import DecisionRequest, decode
from rlkv_service.server_clock import ServerClock


def deadline_s(commands: list[list[bytes]]) -> float:
    """The deadline of the request among commands."""
    (payload,) = (words[2] for words in commands if words[0] == b"RPUSH")
    found = decode(payload, DecisionRequest).deadline_s
    assert found is not None
    return found


def test_each_probe_asks_for_the_time_since_the_servers_clock_may_have_jumped() -> None:
    settings = BreakerSettings(max_failures=1)
    state = ClientState.begin(Address.of("unix:///none", "engine", "default", ""), settings, 1)
    clock, line = ServerClock(), Line()
    now_s = time.monotonic()
    clock.learn([b"1000000000", b"0"], now_s, now_s)
    exchange = Exchange(state, clock, now_s)
    state.breaker.failed(now_s)
    commands = RespParser().feed(exchange.probe(line, now_s + 0.5))
    assert [words[0] for words in commands] == [b"TIME", b"RPUSH", b"LTRIM"]
    assert abs(deadline_s(commands) - 1000000000.5) < 1e-3
    # An hour has passed in no time.
    line.take([[b"1000003600", b"0"], 1, b"OK"])
    exchange.at(now_s + 0.5)
    exchange.take_settled()
    commands = RespParser().feed(exchange.probe(line, now_s + 1.0))
    assert abs(deadline_s(commands) - 1000003601.0) < 1e-3
