"""The state of ``OnlinePauses`` as bytes: what is known, and the last outcome it is known from.

MessagePack with raw little-endian columns, one row a key, in the order in which they came: whoever
has seen the same outcomes has the same bytes. What is read is checked, never run.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from rlkv_service.decision_log.entries import id_parts
from rlkv_service.pauses.bins import HIGH_S, NUM_BINS
from rlkv_service.pauses.key_rows import Key, KeyRows
from rlkv_service.pauses.online_pauses import OnlinePauses, PauseWeights
from rlkv_service.pauses.own_pauses import NUM_KEPT, OwnPauses
from rlkv_service.pauses.sketches import Sketches
from rlkv_service.schema import MAX_NAME_LENGTH, SchemaError

#: Raised when an older reader would misread a state, or the bins change.
STATE_VERSION: Final = 1
#: A larger state is refused unread; the largest possible one has half of it.
MAX_STATE_BYTES: Final = 64 * 2**20
_MOST: Final = 1e15


class SketchColumns(msgspec.Struct):
    """Sketches by key, ``n`` rows."""

    keys: list[tuple[str, ...]]
    used_ms: bytes  # int64 [n]
    calls: bytes  # int64 [n]
    same_moment: bytes  # int64 [n]
    sum_s: bytes  # float64 [n]
    sum_weight: bytes  # float64 [n]
    num_bins: bytes  # int32 [n], bins that are not empty
    bins: bytes  # uint16 [sum(num_bins)], ascending in each row
    weight: bytes  # float64 [sum(num_bins)]


class OwnColumns(msgspec.Struct):
    """Sessions' own pauses by key, ``n`` rows."""

    keys: list[tuple[str, ...]]
    used_ms: bytes  # int64 [n]
    calls: bytes  # int64 [n]
    num: bytes  # uint8 [n]
    bins: bytes  # uint16 [sum(num)], the newest first


class PausesState(msgspec.Struct):
    """All of it."""

    v: int
    last_id: str  #: of the stream of outcomes; everything up to it is in here, nothing after it
    engines: SketchColumns
    tools: SketchColumns
    own: OwnColumns


class _Version(msgspec.Struct):
    v: int


def encode_state(pauses: OnlinePauses, last_id: str) -> bytes:
    """What is known, as of one moment.

    Args:
        pauses: the predictor.
        last_id: of the last outcome it was given.
    """
    with pauses.lock:
        state = PausesState(
            STATE_VERSION, last_id, _sketch_columns(pauses.engines), _sketch_columns(pauses.tools),
            _own_columns(pauses.own),
        )  # fmt: skip
    return msgspec.msgpack.encode(state)


def decode_state(raw: bytes, weights: PauseWeights | None = None) -> tuple[OnlinePauses, str]:
    """A predictor that knows what a state says, and the id of its last outcome.

    Raises:
        SchemaError: it is of another version, damaged, or not possible.
    """
    if len(raw) > MAX_STATE_BYTES:
        raise SchemaError(f"a state of {len(raw)} bytes, at most {MAX_STATE_BYTES} are read")
    try:
        version = msgspec.msgpack.decode(raw, type=_Version).v
        if version != STATE_VERSION:
            raise SchemaError(f"a state of version {version}, this rlkv reads {STATE_VERSION}")
        state = msgspec.msgpack.decode(raw, type=PausesState)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SchemaError(f"the state of pauses cannot be read: {error}") from error
    id_parts(state.last_id)
    pauses = OnlinePauses(weights)
    _fill_sketches(pauses.engines, state.engines, 1, "engines")
    _fill_sketches(pauses.tools, state.tools, 2, "tools")
    _fill_own(pauses.own, state.own)
    return pauses, state.last_id


def _sketch_columns(sketches: Sketches) -> SketchColumns:
    keys, rows = _ordered(sketches.keys)
    where, bins = np.nonzero(sketches.weight[rows])
    return SketchColumns(
        keys,
        sketches.keys.used_ms[rows].astype("<i8").tobytes(),
        sketches.keys.calls[rows].astype("<i8").tobytes(),
        sketches.same_moment[rows].astype("<i8").tobytes(),
        sketches.sum_s[rows].astype("<f8").tobytes(),
        sketches.sum_weight[rows].astype("<f8").tobytes(),
        np.bincount(where, minlength=len(rows)).astype("<i4").tobytes(),
        bins.astype("<u2").tobytes(),
        sketches.weight[rows][where, bins].astype("<f8").tobytes(),
    )


def _own_columns(own: OwnPauses) -> OwnColumns:
    keys, rows = _ordered(own.keys)
    num = own.num[rows]
    kept = np.arange(NUM_KEPT) < num[:, None]
    return OwnColumns(
        keys,
        own.keys.used_ms[rows].astype("<i8").tobytes(),
        own.keys.calls[rows].astype("<i8").tobytes(),
        num.astype("<u1").tobytes(),
        own.bins[rows][kept].astype("<u2").tobytes(),
    )


def _ordered(keys: KeyRows) -> tuple[list[Key], NDArray[np.int64]]:
    return list(keys.rows), np.fromiter(keys.rows.values(), np.int64, len(keys))


def _fill_sketches(sketches: Sketches, columns: SketchColumns, num_parts: int, name: str) -> None:
    keys, num = columns.keys, len(columns.keys)
    _check_keys(keys, num_parts, len(sketches.keys.used_ms), name)
    used_ms = _column(columns.used_ms, "<i8", num, f"{name}.used_ms")
    calls = _column(columns.calls, "<i8", num, f"{name}.calls", least=1)
    same_moment = _column(columns.same_moment, "<i8", num, f"{name}.same_moment")
    sum_s = _column(columns.sum_s, "<f8", num, f"{name}.sum_s")
    sum_weight = _column(columns.sum_weight, "<f8", num, f"{name}.sum_weight", least=1e-3)
    num_bins = _column(columns.num_bins, "<i4", num, f"{name}.num_bins", 1, NUM_BINS)
    total = int(num_bins.sum())
    bins = _column(columns.bins, "<u2", total, f"{name}.bins", 0, NUM_BINS - 1)
    weight = _column(columns.weight, "<f8", total, f"{name}.weight", least=1e-12)
    of_row = np.repeat(np.arange(num), num_bins)
    if ((np.diff(bins.astype(np.int64)) <= 0) & (np.diff(of_row) == 0)).any():
        raise SchemaError(f"{name}.bins of a row are not ascending")
    rows = np.array([sketches.keys.take(key)[0] for key in keys], np.int64)
    sketches.keys.used_ms[rows], sketches.keys.calls[rows] = used_ms, calls
    sketches.same_moment[rows], sketches.sum_s[rows] = same_moment, sum_s
    sketches.sum_weight[rows] = sum_weight
    sketches.weight[rows[of_row], bins] = weight


def _fill_own(own: OwnPauses, columns: OwnColumns) -> None:
    keys = columns.keys
    _check_keys(keys, 3, len(own.num), "own")
    used_ms = _column(columns.used_ms, "<i8", len(keys), "own.used_ms")
    calls = _column(columns.calls, "<i8", len(keys), "own.calls", least=1)
    num = _column(columns.num, "<u1", len(keys), "own.num", 1, NUM_KEPT).astype(np.int64)
    bins = _column(columns.bins, "<u2", int(num.sum()), "own.bins", 0, NUM_BINS - 1)
    rows = np.array([own.take(key) for key in keys], np.int64)
    own.keys.used_ms[rows], own.keys.calls[rows], own.num[rows] = used_ms, calls, num
    place = np.arange(num.sum()) - np.repeat(np.cumsum(num) - num, num)
    own.bins[np.repeat(rows, num), place] = bins


def _check_keys(keys: list[Key], num_parts: int, most: int, name: str) -> None:
    if len(keys) > most:
        raise SchemaError(f"{len(keys)} {name}, at most {most} are possible")
    if len(set(keys)) < len(keys):
        raise SchemaError(f"{name}.keys hold one twice")
    for key in keys:
        if len(key) != num_parts or max(map(len, key)) > MAX_NAME_LENGTH:
            raise SchemaError(f"{name}.keys hold one of {len(key)} parts, or of too long ones")


def _column(
    raw: bytes, kind: str, num: int, name: str, least: float = 0.0, most: float = _MOST * HIGH_S
) -> NDArray[Any]:
    dtype: np.dtype[Any] = np.dtype(kind)
    if len(raw) != num * dtype.itemsize:
        raise SchemaError(f"{name} has {len(raw)} bytes, {num} rows of it {num * dtype.itemsize}")
    values = np.frombuffer(raw, dtype)
    # What is not a number is not in the range either.
    wrong = ~((values >= least) & (values <= most))
    if wrong.any():
        raise SchemaError(f"{name} cannot be {values[int(np.argmax(wrong))]:g}")
    return values
