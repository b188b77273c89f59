from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkv_service.adapters.hints import (
    BACKENDS,
    Hints,
    Pause,
    Served,
    verdict_at,
    with_fields,
)
from rlkv_service.columns import VerdictRows
from rlkv_service.schema import Reason, Verb
from tests.service.adapters.hints.made_pauses import pauses

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


def test_a_verdict_is_a_row_of_the_columns() -> None:
    small, real = np.zeros(2, np.int8), np.ones(2, np.float32)
    rows = VerdictRows(
        "p", np.array([0, 2], np.int8), np.array([np.inf, 0.1], np.float32),
        np.array([99, 7], np.int8), np.array([1, np.nan], np.float32), real, real, small,
        np.full(2, Reason.POLICY, np.int8),
    )  # fmt: skip
    first, second = verdict_at(rows, 0), verdict_at(rows, 1)
    assert (first.verb, first.lease_s, first.soft_priority) == (Verb.PRESERVE, np.inf, 99)
    # As people and JSON write it, not as 0.10000000149011612.
    assert (second.verb, second.lease_s, second.soft_priority) == (Verb.DISCARD, 0.1, 7)
    assert first.expected_return_p50_s == 1.0 and np.isnan(second.expected_return_p50_s)


@given(OBJECTS, OBJECTS)
def test_what_the_client_said_stays(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    before = json.dumps(theirs)
    merged = with_fields(theirs, Hints(fields=ours))
    assert json.dumps(theirs) == before
    _check_merged(merged, theirs, ours)


def _check_merged(merged: dict[str, Any], theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    assert merged.keys() == theirs.keys() | ours.keys()
    for name, value in merged.items():
        mine, yours = ours.get(name), theirs.get(name)
        if yours is None:
            assert value == (mine if name in ours else yours)
        elif isinstance(yours, dict) and isinstance(mine, dict):
            _check_merged(value, yours, mine)
        else:
            assert value == yours


def test_fields_that_the_engine_refuses_together_are_not_added() -> None:
    hints = BACKENDS["sglang"](Pause(session="a"), Served())
    assert with_fields({"session_params": {"id": "x"}}, hints) == {"session_params": {"id": "x"}}
    assert with_fields({"session_params": None}, hints)["session_id"] == "a"


def test_a_field_of_our_name_inside_the_clients_own_rules_ours_out() -> None:
    hints = Hints(fields={"mark": 1}, ruled_out_within={"mark": ("messages",)})
    assert hints.client_fields == {"mark", "messages"}
    marked: dict[str, Any] = {"messages": [{"content": [{"text": "a", "mark": {}}]}]}
    assert with_fields(marked, hints) == marked
    unmarked: dict[str, Any] = {"messages": [{"content": [{"text": "mark", "mark": None}]}]}
    assert with_fields(unmarked, hints) == unmarked | {"mark": 1}
    assert with_fields({"elsewhere": marked}, hints)["mark"] == 1


@given(OBJECTS, OBJECTS)
def test_fields_that_nobody_asks_for_change_nothing(
    theirs: dict[str, Any], ours: dict[str, Any]
) -> None:
    hints = Hints(fields=ours, ruled_out_by={"a": ("b",)}, ruled_out_within={"b": ("c",)})
    seen = {name: value for name, value in theirs.items() if name in hints.client_fields}
    assert with_fields(theirs, hints) == theirs | with_fields(seen, hints)


@pytest.mark.parametrize("backend", BACKENDS)
@given(pause=pauses())
def test_every_mapping_says_what_json_and_http_can_carry(backend: str, pause: Pause) -> None:
    hints = BACKENDS[backend](pause, Served(model="m", instance_id="node-0"))
    json.dumps(hints.fields, allow_nan=False)
    for name, value in hints.headers.items():
        assert name == name.lower() and value.isascii() and value.isprintable(), (name, value)
    for call in hints.calls:
        json.dumps(call.body, allow_nan=False)
        assert call.method in ("POST", "PUT", "DELETE") and call.path.startswith("/")
        assert 0.0 <= call.after_s < float("inf")
    if pause.verdict is None and not pause.ends:
        assert not hints.calls
    assert all(sentence.endswith(".") for sentence in hints.lost)
