from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from rlkv_agents.pause_files import (
    ARRAYS_FILE,
    FORMAT_VERSION,
    MAX_BYTES,
    METADATA_FILE,
    load_pauses,
    save_pauses,
)
from rlkv_engine.errors import InputError
from rlkv_engine.estimates import fit_pause_table
from rlkv_engine.pause_predictor import FEATURE, LEFT, RIGHT, PausePredictor
from rlkv_envs.predicted_pauses import fit_predicted_table
from tests.envs.paused_sessions import paused_sessions

TRACE = paused_sessions(600)
BY_TOOL = fit_pause_table(TRACE)
TABLE = fit_predicted_table(TRACE, BY_TOOL)
Arrays = dict[str, np.ndarray]
#: Changes document and arrays in place.
Damage = Callable[[dict[str, Any], Arrays], Any]


@pytest.mark.parametrize("table", [TABLE, BY_TOOL])
def test_what_was_saved_is_loaded(tmp_path: Path, table: Any) -> None:
    save_pauses(tmp_path / "a" / "b", table)
    loaded = load_pauses(tmp_path / "a" / "b")
    assert loaded.tools == table.tools
    for name in ("residual_s", "mean_s", "quantiles_s"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(table, name))
    np.testing.assert_array_equal(loaded.turn_rows(TRACE), table.turn_rows(TRACE))
    assert (loaded.classes is None) == (table.classes is None)
    if isinstance(loaded.classes, PausePredictor):
        assert loaded.classes.metadata == table.classes.metadata


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot"):
        save_pauses(tmp_path / "file" / "deeper", TABLE)


def set_cell(name: str, row: int, column: int, value: float) -> Damage:
    def damage(document: dict[str, Any], arrays: Arrays) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name][row, column] = value

    return damage


def leaf() -> int:
    assert isinstance(TABLE.classes, PausePredictor)
    return int(np.argmax(TABLE.classes.nodes[:, FEATURE] < 0))


DAMAGES: dict[str, tuple[Damage, str]] = {
    "newer": (lambda d, a: d.update(format_version=FORMAT_VERSION + 1), "is newer than"),
    "no version": (lambda d, a: d.pop("format_version"), "format_version must be 1 or more"),
    "no floor": (lambda d, a: d["predictor"].pop("floor_s"), "floor_s is missing"),
    "floor": (lambda d, a: d["predictor"].update(floor_s=0.0), "floor_s must be above 0"),
    "no number": (lambda d, a: d["predictor"].update(floor_s=float("nan")), "must be above 0"),
    "tools": (lambda d, a: d.update(tools=[1, 2, 3]), "tools must be names"),
    "other tools": (lambda d, a: d["tools"].append("x"), "tool_statistics has shape"),
    "features": (lambda d, a: d["predictor"]["features"].reverse(), "other features"),
    "predictor": (lambda d, a: d.update(predictor=[]), "predictor is of the wrong type"),
    "none": (lambda d, a: d.update(predictor=None), "residual_s has shape"),
    "no array": (lambda d, a: a.pop("nodes"), "array nodes is missing"),
    "type": (lambda d, a: a.update(mean_s=a["mean_s"].astype(np.float32)), "not float64"),
    "bins": (lambda d, a: a.update(residual_s=a["residual_s"][:, 1:].copy()), "residual_s has"),
    "columns": (lambda d, a: a.update(nodes=a["nodes"][:, 1:].copy()), "nodes has shape"),
    "flat": (lambda d, a: a.update(nodes=np.array(1.0)), "nodes has shape"),
    "empty": (lambda d, a: a.update(nodes=a["nodes"][:0].copy()), "nodes has shape"),
    "not finite": (set_cell("quantiles_s", 0, 0, np.nan), "not finite"),
    "negative": (set_cell("residual_s", 0, 0, -1.0), "must not be negative"),
    "backwards": (set_cell("nodes", 0, LEFT, 0), "does not lead forwards"),
    "outside": (set_cell("nodes", 0, RIGHT, 1e6), "does not lead forwards"),
    "half a node": (set_cell("nodes", 0, RIGHT, 2.5), "is no such number"),
    "feature": (set_cell("nodes", 0, FEATURE, 99), "is no such number"),
    "class": (set_cell("nodes", leaf(), LEFT, 99), "the leaves are not the classes"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_in_one_line(tmp_path: Path, kind: str) -> None:
    save_pauses(tmp_path, TABLE)
    document = json.loads((tmp_path / METADATA_FILE).read_text())
    arrays = dict(load((tmp_path / ARRAYS_FILE).read_bytes()))
    damage, message = DAMAGES[kind]
    damage(document, arrays)
    payload = save(arrays)
    (tmp_path / ARRAYS_FILE).write_bytes(payload)
    document["arrays_sha256"] = hashlib.sha256(payload).hexdigest()
    (tmp_path / METADATA_FILE).write_text(json.dumps(document))
    with pytest.raises(InputError, match=message) as raised:
        load_pauses(tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (METADATA_FILE, None, "cannot read it"),
        (METADATA_FILE, b"{", "not JSON"),
        (METADATA_FILE, b"[" * 100_000, "not JSON"),
        (METADATA_FILE, b"[]", "not a JSON object"),
        (METADATA_FILE, b" " * (MAX_BYTES + 1), "too large"),
        (ARRAYS_FILE, None, "cannot read it"),
        (ARRAYS_FILE, b"other", "SHA-256 differs"),
    ],
)
def test_broken_files(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    save_pauses(tmp_path, TABLE)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_pauses(tmp_path)


def test_arrays_that_are_no_safetensors(tmp_path: Path) -> None:
    save_pauses(tmp_path, TABLE)
    document = json.loads((tmp_path / METADATA_FILE).read_text())
    (tmp_path / ARRAYS_FILE).write_bytes(b"rubbish")
    document["arrays_sha256"] = hashlib.sha256(b"rubbish").hexdigest()
    (tmp_path / METADATA_FILE).write_text(json.dumps(document))
    with pytest.raises(InputError, match="not a safetensors file"):
        load_pauses(tmp_path)
