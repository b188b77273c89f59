from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from rlkv_service.decision_log import log_statistics as module
from rlkv_service.decision_log.log_reader import LogReader
from rlkv_service.decision_log.log_statistics import OTHER_TOOLS, log_statistics
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.outcome_log import record_outcomes
from rlkv_service.resp import RespConnection
from rlkv_service.schema import SCHEMA_VERSION, Outcome, SessionEnd
from tests.service.decision_log.logged import KEYS, drawn, log_decisions, messages_of


@pytest.fixture
def connection(valkey: EmbeddedValkey) -> Iterator[RespConnection]:
    with RespConnection(valkey.url) as opened:
        yield opened


def outcome(session: str, tool: str, pause_s: float, turn: int = 0) -> Outcome:
    return Outcome(SCHEMA_VERSION, "engine", session, turn, tool, pause_s, 100)


def test_decisions_are_counted_by_verb_by_who_decided_and_why(connection: RespConnection) -> None:
    names = [f"s{i}" for i in range(9)]
    log_decisions(connection, names, [0] * 9, ["t"] * 9)
    log_decisions(connection, names[:3], [1] * 3, ["t"] * 3, by_rule=True, request_id=2)
    figures = log_statistics(LogReader(connection, KEYS))
    assert figures["num_requests"] == 2 and figures["num_decisions"] == 12
    assert {
        (row["verb"], row["decided_by"], row["reason"], row["num"]) for row in figures["decisions"]
    } == {
        (verb, *by, num)
        for verb in ("PRESERVE", "SWAP", "DISCARD")
        for by, num in ((("policy", "POLICY"), 3), (("rule", "UNSURE"), 1))
    }
    # The rule always says PRESERVE here, the policy each verb as often.
    assert figures["departure_ratio"] == pytest.approx(6 / 9)
    assert figures["policy_differs_ratio"] == pytest.approx(8 / 12)
    assert figures["confidence"]["p50"] == pytest.approx(0.5, abs=0.05)
    assert figures["policy_versions"] == {"v1": 12} and figures["engines"] == ["engine"]


def test_what_was_predicted_first_is_held_against_what_was_seen(
    connection: RespConnection,
) -> None:
    for i in range(20):
        log_decisions(connection, [f"s{i}"], [0], ["bash"], p50_s=1.0, p90_s=9.0, request_id=i)
        # Asked again later in the pause: the first prediction counts.
        log_decisions(connection, [f"s{i}"], [0], ["bash"], p50_s=99.0, p90_s=99.0, request_id=i)
    # Half a second had passed when it was asked.
    pauses = [1.4] * 8 + [9.0] * 8 + [30.0] * 4
    record_outcomes(
        connection, KEYS, [outcome(f"s{i}", "bash", pause_s) for i, pause_s in enumerate(pauses)]
    )
    record_outcomes(connection, KEYS, [outcome("nobody asked", "web", 2.0)])
    bash, web = log_statistics(LogReader(connection, KEYS))["tools"]
    assert bash["tool"] == "bash" and bash["num_outcomes"] == bash["num_predicted"] == 20
    assert bash["coverage_p50_ratio"] == 0.4 and bash["coverage_p90_ratio"] == 0.8
    assert bash["predicted_p50_s"] == pytest.approx(1.5, rel=0.02)
    assert bash["predicted_p90_s"] == pytest.approx(9.5, rel=0.02)
    assert bash["pause_p50_s"] == pytest.approx(np.quantile(pauses, 0.5), rel=0.02)
    assert bash["pause_p90_s"] == pytest.approx(np.quantile(pauses, 0.9), rel=0.02)
    assert (web["num_predicted"], web["coverage_p90_ratio"]) == (0, None)


def test_reuse_is_over_what_was_there_to_reuse(connection: RespConnection) -> None:
    messages = messages_of(drawn(20))
    record_outcomes(connection, KEYS, messages)
    figures = log_statistics(LogReader(connection, KEYS))
    every, discard, preserve = figures["reuse"]
    seen = [each for each in messages if isinstance(each, Outcome)]
    reused = sum(each.reused_device_tokens for each in seen)
    total = reused + sum(each.recomputed_tokens for each in seen)
    assert every["verb"] == "all" and every["reuse_ratio"] == pytest.approx(reused / total)
    assert (preserve["verb"], preserve["reuse_ratio"]) == ("PRESERVE", 1.0)
    assert (discard["verb"], discard["reuse_ratio"]) == ("DISCARD", 0.0)
    assert figures["num_ends"] == 20 and figures["num_outcomes"] == len(seen)


def test_an_empty_log_has_no_ratios(connection: RespConnection) -> None:
    figures = log_statistics(LogReader(connection, KEYS))
    assert figures["num_decisions"] == figures["num_outcomes"] == 0
    assert figures["departure_ratio"] is None and figures["since_s"] is None


def test_memory_is_bounded(connection: RespConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPEN", 10)
    monkeypatch.setattr(module, "MAX_TOOLS", 3)
    for i in range(30):
        log_decisions(connection, [f"s{i}"], [0], ["t"], request_id=i)
    record_outcomes(connection, KEYS, [outcome(f"s{i}", f"t{i}", 1.0) for i in range(30)])
    record_outcomes(connection, KEYS, [outcome("odd", "t0", math.nan)])
    record_outcomes(connection, KEYS, [SessionEnd(SCHEMA_VERSION, "engine", "s", 1)])
    tools = log_statistics(LogReader(connection, KEYS))["tools"]
    assert [tool["tool"] for tool in tools] == [OTHER_TOOLS, "t0", "t1", "t2"]
    assert sum(tool["num_predicted"] for tool in tools) == 10
    assert sum(tool["num_outcomes"] for tool in tools) == 30
