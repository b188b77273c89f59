from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlkv_engine.facts import FACTS, NUM_FACTS, POINT, REMAINING_S
from rlkv_service.columns import (
    DecisionRows,
    VerdictRows,
    check_facts,
    request_of,
    rows_of,
    verdict_rows_of,
    verdicts_of,
)
from rlkv_service.schema import (
    MAX_ROWS,
    DecisionRequest,
    Reason,
    SchemaError,
    Verdicts,
    decode,
    encode,
)

NAMES = [fact.name for fact in FACTS]
MAY_BE_UNKNOWN = [i for i, fact in enumerate(FACTS) if fact.default != fact.default]


@st.composite
def decision_rows(draw: st.DrawFn) -> DecisionRows:
    num = draw(st.integers(1, 5))
    # Few values, so that some facts are the same in all rows.
    facts = draw(arrays(np.float64, (num, NUM_FACTS), elements=st.sampled_from([1.0, 2.0, 0.125])))
    facts[:, POINT] = draw(st.integers(0, 3))
    for i in MAY_BE_UNKNOWN:
        facts[draw(arrays(np.bool_, num)), i] = np.nan
    names = st.lists(st.text(max_size=8), min_size=num, max_size=num)
    turns = draw(arrays(np.int64, num, elements=st.integers(0, 2**31 - 1)))
    return DecisionRows(draw(names), turns, draw(names), facts)


@st.composite
def verdict_rows(draw: st.DrawFn) -> VerdictRows:
    num = draw(st.integers(1, 5))

    def ints(high: int) -> Any:
        return draw(arrays(np.int8, num, elements=st.integers(0, high)))

    def floats() -> Any:
        return draw(arrays(np.float32, num, elements=st.floats(0, width=32)))

    optional = [ints(2), ints(2)] if draw(st.booleans()) else []
    return VerdictRows(
        draw(st.text(max_size=8)),
        ints(2), floats(), ints(100), floats(), floats(), floats(), ints(1), ints(max(Reason)),
        *optional,
    )  # fmt: skip


@given(decision_rows())
def test_rows_come_back_as_they_were(rows: DecisionRows) -> None:
    request = decode(encode(request_of(rows, "engine", 7, deadline_s=1.5)), DecisionRequest)
    back = rows_of(request)
    assert (request.id, request.engine_id, request.deadline_s) == (7, "engine", 1.5)
    assert list(back.sessions) == list(rows.sessions) and list(back.tools) == list(rows.tools)
    assert back.turns.tolist() == rows.turns.tolist()
    np.testing.assert_array_equal(back.facts, rows.facts)


@given(decision_rows())
def test_facts_that_all_rows_share_travel_once(rows: DecisionRows) -> None:
    request = request_of(rows, "engine", 1)
    for i, name in enumerate(NAMES):
        column = rows.facts[:, i]
        if np.isnan(column).all():
            assert name not in request.facts
        else:
            assert len(request.facts[name]) == (8 if len(set(column)) == 1 else 8 * len(rows))


@given(verdict_rows())
def test_verdicts_come_back_as_they_were(rows: VerdictRows) -> None:
    message = decode(encode(verdicts_of(rows, 3)), Verdicts)
    assert message.id == 3
    back = verdict_rows_of(message, len(rows))
    assert back.policy_version == rows.policy_version
    for name in VerdictRows.__slots__[1:]:
        before, after = getattr(rows, name), getattr(back, name)
        assert before.dtype == after.dtype, name
        np.testing.assert_array_equal(before, after)


def facts_of(num: int = 3) -> Any:
    return np.ones((num, NUM_FACTS))


def request(num: int = 3) -> DecisionRequest:
    names = [f"s{i}" for i in range(num)]
    return request_of(DecisionRows(names, np.arange(num), names, facts_of(num)), "engine", 1)


@pytest.mark.parametrize("fact", [fact for fact in FACTS if fact.default is None])
def test_a_fact_that_nobody_can_do_without_is_named(fact: Any) -> None:
    message = request()
    del message.facts[fact.name]
    with pytest.raises(SchemaError, match=f"fact {fact.name} is missing"):
        rows_of(message)


@pytest.mark.parametrize("fact", [fact for fact in FACTS if fact.default is not None])
def test_a_fact_left_out_has_its_default(fact: Any) -> None:
    message = request()
    del message.facts[fact.name]
    column = rows_of(message).facts[:, NAMES.index(fact.name)]
    np.testing.assert_array_equal(column, [fact.default] * 3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0, 7, 16, 32])
def test_a_column_of_the_wrong_length_is_named(name: str, size: int) -> None:
    message = request()
    message.facts[name] = bytes(size)
    with pytest.raises(SchemaError, match=f"{name} has {size} bytes, 3 rows of it have 24"):
        rows_of(message)


@pytest.mark.parametrize("i", range(NUM_FACTS), ids=NAMES)
@pytest.mark.parametrize("bad", [np.inf, -np.inf, -1.0, np.nan])
def test_an_impossible_fact_is_named_with_its_row(i: int, bad: float) -> None:
    facts = facts_of()
    facts[1, i] = bad
    if np.isnan(bad) and i in MAY_BE_UNKNOWN:
        check_facts(facts)
        return
    with pytest.raises(SchemaError, match=f"row 1: {NAMES[i]} cannot be"):
        check_facts(facts)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("block_size", 0.0),
        ("num_device_blocks", 0.0),
        ("max_num_seqs", 0.0),
        ("prefill_token_s", 0.0),
        ("mean_pause_s", 0.0),
        ("point", 4.0),
        ("point", 0.5),
    ],
)
def test_what_would_divide_by_zero_or_is_no_point_is_refused(name: str, bad: float) -> None:
    facts = facts_of()
    facts[2, NAMES.index(name)] = bad
    with pytest.raises(SchemaError, match=f"row 2: {name} cannot be {bad:g}"):
        check_facts(facts)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sessions": []}, "0 decisions in a request"),
        ({"sessions": ["s"] * (MAX_ROWS + 1)}, f"1025 decisions in a request, 1 to {MAX_ROWS}"),
        ({"tools": ["t"]}, "1 tools for 3 decisions"),
        ({"turns": b"\0"}, "turns has 1 bytes, 3 rows of it have 12"),
        ({"engine_id": "e" * 257}, r"length <= 256 - at `\$.engine_id`"),
        ({"sessions": ["s", "s" * 300, "s"]}, r"length <= 256 - at `\$.sessions"),
        ({"tools": ["t", "t", "t" * 300]}, r"length <= 256 - at `\$.tools"),
    ],
)
def test_rows_that_make_no_sense_are_refused(change: dict[str, Any], why: str) -> None:
    message = request()
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(SchemaError, match=why):
        rows_of(decode(encode(message), DecisionRequest))


def test_a_fact_that_a_reader_does_not_know_is_ignored() -> None:
    message = request()
    message.facts["phase_of_the_moon"] = bytes(8)
    assert rows_of(message).facts.shape == (3, NUM_FACTS)


VERDICT_SIZES = {
    "verb": 1, "lease_s": 4, "soft_priority": 1, "expected_return_p50_s": 4,
    "expected_return_p90_s": 4, "confidence": 4, "fallback_used": 1, "reason": 1,
}  # fmt: skip


def verdicts(num: int = 3) -> Verdicts:
    return Verdicts(1, 1, "v", *(bytes(num * size) for size in VERDICT_SIZES.values()))


@pytest.mark.parametrize("name", [*VERDICT_SIZES, "rule_verb", "policy_verb"])
def test_a_column_of_verdicts_of_the_wrong_length_is_named(name: str) -> None:
    message = verdicts()
    setattr(message, name, b"\0\0")
    with pytest.raises(SchemaError, match=f"{name} has 2 bytes, 3 rows of it have"):
        verdict_rows_of(message, 3)
    with pytest.raises(SchemaError, match="3 bytes, 4 rows of it have 4"):
        verdict_rows_of(verdicts(), 4)


@pytest.mark.parametrize(
    ("name", "raw", "why"),
    [
        ("verb", b"\0\3\0", "verb is none of 0 to 2: 3"),
        ("verb", b"\0\xff\0", "verb is none of 0 to 2: -1"),
        ("soft_priority", b"\0\x65\0", "soft_priority is none of 0 to 100: 101"),
        ("fallback_used", b"\2\0\0", "fallback_used is none of 0 to 1: 2"),
        ("reason", b"\0\x0d\0", "reason is none of 0 to 12: 13"),
        ("lease_s", np.array([1, -1, 1], "<f4").tobytes(), "a lease is negative"),
        ("lease_s", np.array([1, np.nan, 1], "<f4").tobytes(), "a lease is negative"),
    ],
)
def test_an_impossible_verdict_is_refused(name: str, raw: bytes, why: str) -> None:
    message = verdicts()
    setattr(message, name, raw)
    with pytest.raises(SchemaError, match=why):
        verdict_rows_of(message, 3)


def test_a_pause_is_expected_in_the_rows_own_units() -> None:
    facts = facts_of(1)
    facts[0, REMAINING_S] = 1e-9
    rows = DecisionRows(["s"], np.zeros(1, np.int32), ["t"], facts)
    assert rows_of(request_of(rows, "e", 1)).facts[0, REMAINING_S] == 1e-9
