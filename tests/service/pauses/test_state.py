from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkv_service.pauses import OnlinePauses
from rlkv_service.pauses.online_pauses import MAX_OWN, MAX_TOOLS
from rlkv_service.pauses.state import (
    MAX_STATE_BYTES,
    STATE_VERSION,
    PausesState,
    decode_state,
    encode_state,
)
from rlkv_service.schema import SchemaError


def add_some(pauses: OnlinePauses, begin: int, end: int) -> None:
    for i in range(begin, end):
        pause_s = float(np.random.default_rng(i).lognormal(0.0, 2.0))
        pauses.add(f"engine {i % 3}", f"session {i % 40}", f"tool {i % 7}", pause_s, i // 5)
        if i % 97 == 0:
            pauses.end(f"engine {i % 3}", f"session {(i + 20) % 40}")


def asked(pauses: OnlinePauses) -> list[Any]:
    sessions, tools = [f"session {i}" for i in range(50)], [f"tool {i % 9}" for i in range(50)]
    return [
        array.tolist()
        for engine in range(3)
        for array in pauses.remaining(f"engine {engine}", sessions, tools, np.linspace(0, 90, 50))
    ]


def test_what_is_read_back_answers_and_goes_on_as_what_was_written() -> None:
    once = OnlinePauses()
    add_some(once, 0, 1500)
    again, last_id = decode_state(encode_state(once, "1500-3"))
    assert last_id == "1500-3"
    assert asked(again) == asked(once)
    for pauses in (once, again):
        add_some(pauses, 1500, 2500)
    assert asked(again) == asked(once)
    assert encode_state(again, "9-9") == encode_state(once, "9-9")


def test_what_was_evicted_is_not_in_it_and_it_fits_with_names_as_long_as_they_can_be() -> None:
    full = OnlinePauses()
    for i in range(MAX_OWN + 500):
        name = f"{i}".rjust(256, "x")
        full.add("e" * 256, name, name, 1.0 + i % 1000, i)
    raw = encode_state(full, "1-0")
    assert len(raw) < MAX_STATE_BYTES / 2
    again, _ = decode_state(raw)
    assert len(again.own.keys) == len(full.own.keys) <= MAX_OWN
    assert len(again.tools.keys) == len(full.tools.keys) <= MAX_TOOLS
    for pauses in (full, again):  # rows are not where they were, but the same go next
        for i in range(5000):
            pauses.add("e" * 256, f"{i}", f"{i}", 1.0, 10**6 + i // 3)
    assert encode_state(again, "2-0") == encode_state(full, "2-0")


def test_a_state_of_another_version_is_refused_with_both_numbers() -> None:
    raw = msgspec.msgpack.encode({"v": STATE_VERSION + 1, "tools": "of another kind"})
    with pytest.raises(SchemaError, match=f"version {STATE_VERSION + 1}, .* {STATE_VERSION}$"):
        decode_state(raw)
    with pytest.raises(SchemaError, match="at most"):
        decode_state(bytes(MAX_STATE_BYTES + 1))


def changed(**columns: Any) -> bytes:
    pauses = OnlinePauses()
    add_some(pauses, 0, 60)
    state = msgspec.msgpack.decode(encode_state(pauses, "5-0"), type=PausesState)
    for name, value in columns.items():
        group, _, field = name.partition("__")
        setattr(getattr(state, group) if field else state, field or group, value)
    return msgspec.msgpack.encode(state)


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"engines__sum_s": np.array([1.0, np.nan, 1.0]).tobytes()}, "engines.sum_s cannot be nan"),
        ({"engines__sum_s": np.array([1.0, -1.0, 1.0]).tobytes()}, "engines.sum_s cannot be -1"),
        ({"engines__sum_weight": bytes(24)}, "engines.sum_weight cannot be 0"),
        ({"engines__sum_weight": np.full(3, np.inf).tobytes()}, "sum_weight cannot be inf"),
        ({"tools__used_ms": bytes(8)}, "tools.used_ms has 8 bytes, 21 rows of it 168"),
        ({"tools__num_bins": np.full(21, 2**31 - 1, "<i4").tobytes()}, "tools.num_bins cannot be"),
        ({"tools__weight": b""}, "tools.weight has 0 bytes"),
        ({"own__num": bytes([9]) * 60}, "own.num cannot be 9"),
        ({"own__keys": [("e", "s", "t")] * 60}, "own.keys hold one twice"),
        ({"engines__keys": [("a",), ("b",), ("c", "d")]}, "engines.keys hold one of 2 parts"),
        ({"engines__keys": [("a",), ("b",), ("x" * 257,)]}, "engines.keys hold one"),
        ({"engines__keys": [(str(i),) for i in range(257)]}, "257 engines, at most 256"),
        ({"last_id": "-1"}, "'-1' is no id"),
        ({"last_id": "9" * 5000 + "-1"}, "is no id"),
        ({"last_id": 7}, "Expected `str`"),
    ],
)
def test_a_state_that_cannot_be_is_refused(columns: dict[str, Any], named: str) -> None:
    decode_state(changed())
    with pytest.raises(SchemaError, match=named):
        decode_state(changed(**columns))


def test_bins_that_are_out_of_order_are_refused() -> None:
    pauses = OnlinePauses()
    for pause_s in (1.0, 2.0):
        pauses.add("e", "s", "t", pause_s, 1)
    state = msgspec.msgpack.decode(encode_state(pauses, "5-0"), type=PausesState)
    state.tools.bins = np.frombuffer(state.tools.bins, "<u2")[::-1].tobytes()
    with pytest.raises(SchemaError, match="bins of a row are not ascending"):
        decode_state(msgspec.msgpack.encode(state))


@given(st.data())
@settings(max_examples=80)
def test_damaged_bytes_are_refused_or_give_a_predictor_that_answers(data: st.DataObject) -> None:
    raw = bytearray(changed())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for each in (raw, raw[:cut]):
        try:
            pauses, _ = decode_state(bytes(each))
        except SchemaError:
            continue
        for array in pauses.remaining("engine 0", ["session 0"], ["tool 0"], np.ones(1)):
            assert array.shape == (1,) and not (array < 0.0).any()
        pauses.add("engine 0", "session 0", "tool 0", 1.0, 100)
