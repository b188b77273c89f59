from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from rlkv_agents.bundle import (
    FORMAT_VERSION,
    MAX_BYTES,
    METADATA_FILE,
    WEIGHTS_FILE,
    load_bundle,
    save_bundle,
)
from rlkv_agents.evaluate import run_policy
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy, from_tensors, range_of, to_tensors
from rlkv_agents.rules import RULES, make_rule
from rlkv_engine.errors import InputError
from rlkv_engine.observe import FEATURES, NUM_FEATURES
from tests.agents.small_scenario import random_network, small_scenario

ROOT = Path(__file__).parents[2]
SCENARIO = small_scenario()

#: Changes the document, given the tensors, in place; returns the payload to write.
Damage = Callable[[dict[str, Any], dict[str, np.ndarray]], None]


def network() -> AgentPolicy:
    low, high = range_of(np.full(NUM_FEATURES, -2.0), np.full(NUM_FEATURES, 2.0))
    rule = House(guard_pauses=2.0, swap_ratio=0.0)
    return replace(random_network(), rule=rule, trained_range=(low, high))


def write(folder: Path, document: dict[str, Any], payload: bytes) -> None:
    (folder / WEIGHTS_FILE).write_bytes(payload)
    document["weights_sha256"] = hashlib.sha256(payload).hexdigest()
    (folder / METADATA_FILE).write_text(json.dumps(document))


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    policy = network()
    save_bundle(tmp_path / "a" / "bundle", policy, {"trained_on": {"seed": 3}})
    bundle = load_bundle(tmp_path / "a" / "bundle")
    assert bundle.metadata["trained_on"] == {"seed": 3}
    loaded = bundle.policy
    assert (loaded.name, loaded.rule, loaded.prior) == ("learned", policy.rule, 0.5)
    expected = to_tensors(policy)
    for name, array in to_tensors(loaded).items():
        np.testing.assert_array_equal(array, expected[name])
    assert np.isneginf(expected["range_low"]).any() and np.isfinite(expected["range_low"]).any()
    assert sorted(os.listdir(tmp_path / "a" / "bundle")) == [METADATA_FILE, WEIGHTS_FILE]


def test_it_decides_the_same_after_loading(tmp_path: Path) -> None:
    policy = network()
    save_bundle(tmp_path, policy, {})
    rounded = from_tensors("learned", policy.rule, policy.prior, to_tensors(policy))
    trace = SCENARIO.trace(0, "test")
    results = [
        run_policy(SCENARIO, p, trace).normalized_latency_s
        for p in (rounded, load_bundle(str(tmp_path)).policy, AgentPolicy("rule", policy.rule))
    ]
    assert results[0] == results[1]
    assert results[0] != results[2]


@pytest.mark.parametrize("num_host_blocks", [1, 20, 250])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_can_be_a_bundle(tmp_path: Path, name: str, num_host_blocks: int) -> None:
    scenario = small_scenario(num_host_blocks=num_host_blocks)
    rule = AgentPolicy(name, make_rule(name))
    save_bundle(tmp_path, rule, {})
    loaded = load_bundle(tmp_path).policy
    assert loaded.weights is not None and loaded.rule == rule.rule
    for seed in range(3):
        trace = scenario.trace(seed, "test")
        ours, theirs = (run_policy(scenario, p, trace) for p in (rule, loaded))
        assert ours == theirs


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_bundle(tmp_path / name, network(), {"seed": 0})
    for file in (METADATA_FILE, WEIGHTS_FILE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_metadata_says_what_the_numbers_mean(tmp_path: Path) -> None:
    save_bundle(tmp_path, network(), {})
    document = json.loads((tmp_path / METADATA_FILE).read_text())
    assert document["format_version"] == FORMAT_VERSION
    assert [o["name"] for o in document["observations"]] == [f.name for f in FEATURES]
    assert document["verbs"] == ["PRESERVE", "SWAP", "DISCARD"]
    assert document["rule"] == {
        "name": "house",
        "constants": {
            "guard_pauses": 2.0, "swap_ratio": 0.0, "write_through": 0.0, "new_swaps": 1.0,
            "slack_ratio": 0.003,
        },
    }  # fmt: skip
    payload = (tmp_path / WEIGHTS_FILE).read_bytes()
    assert document["weights_sha256"] == hashlib.sha256(payload).hexdigest()
    assert all(array.dtype == np.float32 for array in load(payload).values())


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    save_bundle(tmp_path, network(), {})
    program = (
        "import sys; sys.modules['torch'] = None\n"  # importing it would raise
        "from rlkv_agents.bundle import load_bundle\n"
        f"bundle = load_bundle({str(tmp_path)!r})\n"
        "print(bundle.policy.name, len(bundle.policy.weights), bundle.policy.compiled().prior)\n"
    )
    path = os.pathsep.join(str(ROOT / room) for room in ("", "engine", "envs", "agents"))
    process = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == "learned 6 0.5\n"


def _set(*path: Any, value: Any) -> Damage:
    def damage(document: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        target: Any = document
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return damage


def _drop(name: str) -> Damage:
    return lambda document, tensors: document.pop(name)


def _drop_tensor(document: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    del tensors["bias_2"]


def _wrong_shape(document: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    tensors["weight_3"] = tensors["weight_3"].T.copy()


def _other_hidden(document: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    document["hidden"] = 7


def _nan_weight(document: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    tensors["weight_1"][2, 3] = np.nan


def _infinite_weight(document: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    tensors["bias_3"][0] = np.inf


def _nan_range(document: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    tensors["range_low"][0] = np.nan


def _half_precision(document: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    tensors["weight_2"] = tensors["weight_2"].astype(np.float16)


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (_set("format_version", value=2), METADATA_FILE, "format_version 2 is newer than 1"),
        (_set("format_version", value=0), METADATA_FILE, "format_version must be 1 or more"),
        (_set("format_version", value="1"), METADATA_FILE, "format_version must be 1 or more"),
        (_drop("format_version"), METADATA_FILE, "format_version must be 1 or more"),
        (_set("observations", 3, "name", value="frea"), METADATA_FILE,
         "observation 3 is 'frea', here it is 'point_grow'"),
        (_set("observations", 3, value=None), METADATA_FILE, "observation 3 is None"),
        (_set("observations", 3, "scale", value=2.0), METADATA_FILE, "scale 1 and offset 0"),
        (_set("observations", value=[]), METADATA_FILE, f"0 observations, .* has {NUM_FEATURES}"),
        (_set("verbs", value=["SWAP", "PRESERVE", "DISCARD"]), METADATA_FILE, "verbs must be"),
        (_set("prior", value=float("nan")), METADATA_FILE, "prior must be a number from 0"),
        (_set("prior", value=-1), METADATA_FILE, "prior must be a number from 0"),
        (_set("prior", value=10**400), METADATA_FILE, "prior must be a number from 0"),
        (_set("hidden", value=8.0), METADATA_FILE, "hidden is missing or of the wrong type"),
        (_drop("rule"), METADATA_FILE, "rule is missing or of the wrong type"),
        (_drop("weights_sha256"), METADATA_FILE, None),
        (_set("rule", "name", value="fifo"), METADATA_FILE, "unknown rule 'fifo'"),
        (_set("rule", "constants", value={"gard": 1.0}), METADATA_FILE,
         "rule 'house' has no constant 'gard'"),
        (_set("name", value=""), METADATA_FILE, "name must be 1 to 64 printable characters"),
        (_set("name", value="two\nlines"), METADATA_FILE, "name must be 1 to 64 printable"),
        (_set("name", value="x" * 65), METADATA_FILE, "name must be 1 to 64 printable"),
        (_set("rule", "constants", "guard_pauses", value=float("nan")), METADATA_FILE,
         "rule constant 'guard_pauses' must be a finite number"),
        (_set("rule", "constants", "guard_pauses", value="1"), METADATA_FILE, "finite number"),
        (_set("rule", "constants", "guard_pauses", value=10**400), METADATA_FILE, "finite"),
        (_drop_tensor, WEIGHTS_FILE, "tensor bias_2 is missing"),
        (_wrong_shape, WEIGHTS_FILE, r"tensor weight_3 has shape \(8, 3\), expected \(3, 8\)"),
        (_other_hidden, WEIGHTS_FILE, r"tensor weight_1 has shape \(8, \d+\), expected \(7,"),
        (_nan_weight, WEIGHTS_FILE, "tensor weight_1 holds numbers that are not finite"),
        (_infinite_weight, WEIGHTS_FILE, "tensor bias_3 holds numbers that are not finite"),
        (_nan_range, WEIGHTS_FILE, "tensor range_low holds numbers that are not finite"),
        (_half_precision, WEIGHTS_FILE, "tensor weight_2 is float16, not float32"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(
    tmp_path: Path, damage: Damage, file: str, reason: str | None
) -> None:
    save_bundle(tmp_path, network(), {})
    document = json.loads((tmp_path / METADATA_FILE).read_text())
    tensors = {k: v.copy() for k, v in load((tmp_path / WEIGHTS_FILE).read_bytes()).items()}
    damage(document, tensors)
    if reason is None:  # the checksum itself is what is missing
        (tmp_path / METADATA_FILE).write_text(json.dumps(document))
    else:
        write(tmp_path, document, save(tensors))
    with pytest.raises(InputError, match=reason or "weights_sha256 is missing") as caught:
        load_bundle(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / file}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["flip", "truncate", "append", "swap", "empty"])
def test_damaged_or_swapped_weights_are_noticed(tmp_path: Path, damage: str) -> None:
    save_bundle(tmp_path, network(), {})
    save_bundle(tmp_path / "other", random_network(seed=1), {})
    path = tmp_path / WEIGHTS_FILE
    whole = path.read_bytes()
    damaged = {
        "flip": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
        "truncate": whole[: len(whole) // 2],
        "append": whole + b"\0",
        "swap": (tmp_path / "other" / WEIGHTS_FILE).read_bytes(),
        "empty": b"",
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(InputError, match="SHA-256 differs") as caught:
        load_bundle(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x80\x04\x95pickle",
        b"\xff" * 64,
        b"\x02\0\0\0\0\0\0\0{}",
        # A type that NumPy does not have.
        b'\x40\0\0\0\0\0\0\0{"bias_1":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}   \0\0',
    ],
)
def test_files_that_are_no_weights_are_named_even_with_the_right_sum(
    tmp_path: Path, payload: bytes
) -> None:
    save_bundle(tmp_path, network(), {})
    write(tmp_path, json.loads((tmp_path / METADATA_FILE).read_text()), payload)
    with pytest.raises(InputError, match=r"not a safetensors file|tensor .* is missing") as caught:
        load_bundle(tmp_path)
    assert str(tmp_path / WEIGHTS_FILE) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", '{"format_version": NaN}'],
)
def test_metadata_that_is_no_object(tmp_path: Path, text: str) -> None:
    save_bundle(tmp_path, network(), {})
    (tmp_path / METADATA_FILE).write_text(text)
    with pytest.raises(InputError) as caught:
        load_bundle(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / METADATA_FILE}: ")
    (tmp_path / METADATA_FILE).write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match=METADATA_FILE):
        load_bundle(tmp_path)


@pytest.mark.parametrize("file", [METADATA_FILE, WEIGHTS_FILE])
def test_missing_and_huge_files(tmp_path: Path, file: str) -> None:
    save_bundle(tmp_path, network(), {})
    path = tmp_path / file
    path.unlink()
    with pytest.raises(InputError, match=f"{file}: cannot read it: No such file"):
        load_bundle(tmp_path)
    with path.open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)  # a hole: takes no space
    with pytest.raises(InputError, match=f"{file}: {MAX_BYTES + 1} bytes: too large"):
        load_bundle(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=f"{file}: cannot read it"):
        load_bundle(tmp_path)


def test_there_may_be_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read it: No such file"):
        load_bundle(tmp_path / "none")


def test_a_folder_that_cannot_be_written_keeps_its_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here first")
    with pytest.raises(InputError, match="bundle: cannot write: "):
        save_bundle(tmp_path / "file" / "bundle", network(), {})
    assert (tmp_path / "file").read_text() == "here first"
