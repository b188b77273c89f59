from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from rlkv_agents.bundle import load_bundle, save_bundle
from rlkv_agents.pause_files import (
    ARRAYS_FILE,
    FORMAT_VERSION,
    MAX_BYTES,
    METADATA_FILE,
    load_predictor,
    save_predictor,
)
from rlkv_agents.pause_predictor import class_chances, fit_predictor
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import make_rule
from rlkv_engine.errors import InputError
from rlkv_engine.pause_predictor import FEATURE, LEFT, RIGHT, THRESHOLD
from tests.agents.paused_sessions import paused_sessions

TRACE = paused_sessions()
PREDICTOR = fit_predictor(TRACE, num_trees=2)
Arrays = dict[str, np.ndarray]
#: Changes document and arrays in place.
Damage = Callable[[dict[str, Any], Arrays], Any]


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save_predictor(tmp_path / "a" / "b", PREDICTOR)
    loaded = load_predictor(tmp_path / "a" / "b")
    assert (loaded.tools, loaded.floor_s) == (PREDICTOR.tools, PREDICTOR.floor_s)
    assert loaded.metadata == PREDICTOR.metadata
    np.testing.assert_array_equal(class_chances(loaded, TRACE), class_chances(PREDICTOR, TRACE))


def test_it_lies_beside_a_bundle(tmp_path: Path) -> None:
    save_bundle(tmp_path, AgentPolicy("house", make_rule("house")), {})
    save_predictor(tmp_path, PREDICTOR)
    assert load_bundle(tmp_path).policy.name == "house"
    assert load_predictor(tmp_path).num_classes == PREDICTOR.num_classes


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        save_predictor(tmp_path / "file" / "deeper", PREDICTOR)


def set_cell(name: str, row: int, column: int, value: float) -> Damage:
    def damage(document: dict[str, Any], arrays: Arrays) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name][row, column] = value

    return damage


def leaf() -> int:
    return int(np.argmax(PREDICTOR.trees[:, FEATURE] < 0))


DAMAGES: dict[str, tuple[Damage, str]] = {
    "newer": (lambda d, a: d.update(format_version=FORMAT_VERSION + 1), "is newer than"),
    "no version": (lambda d, a: d.pop("format_version"), "format_version must be 1 or more"),
    "no floor": (lambda d, a: d.pop("floor_s"), "floor_s is missing"),
    "floor": (lambda d, a: d.update(floor_s=0.0), "floor_s must be above 0"),
    "not a number": (lambda d, a: d.update(floor_s=float("nan")), "floor_s must be above 0"),
    "tools": (lambda d, a: d.update(tools=[1, 2, 3]), "tools must be names"),
    "other tools": (lambda d, a: d["tools"].append("x"), "tool_statistics has shape"),
    "features": (lambda d, a: d["features"].reverse(), "other features"),
    "no array": (lambda d, a: a.pop("alive"), "array alive is missing"),
    "type": (lambda d, a: a.update(alive=a["alive"].astype(np.float32)), "not float64"),
    "bins": (lambda d, a: a.update(alive=a["alive"][:, :-1].copy()), "alive has shape"),
    "columns": (lambda d, a: a.update(trees=a["trees"][:, :-1].copy()), "trees has shape"),
    "flat": (lambda d, a: a.update(trees=np.array(1.0)), "trees has shape"),
    "edges": (lambda d, a: a.update(edges_s=np.zeros((2, 2))), "edges_s must have"),
    "not finite": (set_cell("excess_s", 0, 0, np.nan), "not finite"),
    "negative": (set_cell("alive", 0, 0, -1.0), "must not be negative"),
    "backwards": (set_cell("trees", 0, LEFT, 0), "does not lead forwards"),
    "outside": (set_cell("trees", 0, RIGHT, 1e6), "does not lead forwards"),
    "half a node": (set_cell("trees", 0, RIGHT, 2.5), "is no such number"),
    "feature": (set_cell("trees", 0, FEATURE, 99), "is no such number"),
    "hazard": (set_cell("trees", leaf(), THRESHOLD, 99), "a hazard that there is not"),
    "endless": (set_cell("trees", leaf(), LEFT, 0), "does not lead forwards"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_in_one_line(tmp_path: Path, kind: str) -> None:
    save_predictor(tmp_path, PREDICTOR)
    document = json.loads((tmp_path / METADATA_FILE).read_text())
    arrays = dict(load((tmp_path / ARRAYS_FILE).read_bytes()))
    damage, message = DAMAGES[kind]
    damage(document, arrays)
    payload = save(arrays)
    (tmp_path / ARRAYS_FILE).write_bytes(payload)
    document["arrays_sha256"] = hashlib.sha256(payload).hexdigest()
    (tmp_path / METADATA_FILE).write_text(json.dumps(document))
    with pytest.raises(InputError, match=message) as raised:
        load_predictor(tmp_path)
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
    save_predictor(tmp_path, PREDICTOR)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_predictor(tmp_path)


def test_arrays_that_are_no_safetensors(tmp_path: Path) -> None:
    save_predictor(tmp_path, PREDICTOR)
    document = json.loads((tmp_path / METADATA_FILE).read_text())
    (tmp_path / ARRAYS_FILE).write_bytes(b"rubbish")
    document["arrays_sha256"] = hashlib.sha256(b"rubbish").hexdigest()
    (tmp_path / METADATA_FILE).write_text(json.dumps(document))
    with pytest.raises(InputError, match="not a safetensors file"):
        load_predictor(tmp_path)
