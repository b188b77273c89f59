from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlkv_engine.errors import InputError
from rlkv_engine.facts import FACTS
from rlkv_service.client import LocalRule, Reason, VerdictRows, decision_rows
from rlkv_service.client.gathering import Gathering
from rlkv_service.client.request_book import Asked, Settled
from rlkv_service.local_rule import LOCAL_VERSION
from rlkv_service.schema import MAX_ROWS
from tests.service.client.asking import rows_about


def verdicts(version: str, num: int, reason: Reason = Reason.POLICY) -> VerdictRows:
    rows = LocalRule().verdicts(rows_about(1, num), reason)
    return VerdictRows(version, *(getattr(rows, name) for name in VerdictRows.__slots__[1:]))


def gathered(num: int, versions: list[str | None]) -> tuple[Gathering, VerdictRows]:
    gathering = Gathering(rows_about(1, num), 1.0)
    asks = gathering.asks()
    assert sum(len(rows) for rows, _, _ in asks) == num
    for (rows, tag, deadline_s), version in zip(asks, versions, strict=True):
        assert len(rows) <= MAX_ROWS and deadline_s == 1.0
        if version is not None:
            answer = verdicts(version, len(rows))
            assert Gathering.put(Settled(Asked(1, rows, tag, 1.0), answer)) is gathering
    return gathering, gathering.verdicts(LocalRule())


def test_many_rows_travel_in_parts_and_come_back_as_one() -> None:
    gathering, found = gathered(2 * MAX_ROWS + 7, ["a", "a", "a"])
    assert gathering.is_complete
    assert found.policy_version == "a" and len(found) == len(found.rule_verb) == 2 * MAX_ROWS + 7
    assert set(found.reason) == {Reason.POLICY}


def test_a_part_that_is_missing_is_answered_by_the_rule() -> None:
    gathering, found = gathered(MAX_ROWS + 5, [None, "a"])
    assert not gathering.is_complete
    assert found.policy_version == "a"
    assert found.reason.tolist() == [Reason.LATE] * MAX_ROWS + [Reason.POLICY] * 5
    assert found.fallback_used[:MAX_ROWS].all()


def test_no_answer_mixes_two_versions() -> None:
    _, found = gathered(MAX_ROWS + 5, ["a", "b"])
    assert found.policy_version == "a"
    assert found.reason[MAX_ROWS:].tolist() == [Reason.MISMATCHED] * 5


def test_without_any_answer_the_rule_is_the_version() -> None:
    _, found = gathered(3, [None])
    assert found.policy_version == LOCAL_VERSION


def test_rows_are_made_from_what_is_known_by_name() -> None:
    known: dict[str, Any] = {fact.name: 2.0 for fact in FACTS if fact.default is None}
    rows = decision_rows(
        ["a", "b"], [1, 2], ["x", "y"],
        **{**known, "context_tokens": [5, 6], "wait_s": [np.nan, 1.0]},
    )  # fmt: skip
    by_name = {fact.name: rows.facts[:, i].tolist() for i, fact in enumerate(FACTS)}
    assert rows.turns.tolist() == [1, 2]
    assert by_name["context_tokens"] == [5.0, 6.0]
    assert by_name["block_size"] == [2.0, 2.0]
    assert by_name["wait_s"] == [0.0, 1.0]  # NaN: its default
    assert by_name["num_paused"] == [1.0, 1.0]
    assert all(np.isnan(by_name["remaining_s"]))
    for change, why in (
        ({"block_sise": 3}, "there is no fact block_sise"),
        ({"context_tokens": [1, 2, 3]}, r"context_tokens has the shape \(3,\), not \(2,\)"),
    ):
        with pytest.raises(InputError, match=why):
            decision_rows(["a", "b"], 0, ["x", "y"], **{**known, **change})
    del known["point"]
    with pytest.raises(InputError, match="fact point is missing"):
        decision_rows(["a"], 0, ["x"], **known)
    with pytest.raises(InputError, match="1 tools for 2 sessions"):
        decision_rows(["a", "b"], 0, ["x"], **known, point=0)
