"""The kernels compile for GPUs that are not there, and fit them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.paged.kernels.child import run_module
from tests.engine.paged.kernels.compiled_cases import (
    CHIPS,
    EVERY_CHIP,
    SOME_CHIPS,
    SPILLING,
    TOO_LARGE,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="triton is not installed"
    ),
]

CASES = [f"{name} {chip}" for name in EVERY_CHIP for chip in CHIPS]
CASES += [f"{name} {chip}" for name, chips in SOME_CHIPS.items() for chip in chips]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    # A cache of its own: what is asserted of is compiled now.
    cache: Path = tmp_path_factory.mktemp("triton")
    found: dict[str, dict[str, Any]] = json.loads(
        run_module("tests.engine.paged.kernels.compiled", TRITON_CACHE_DIR=str(cache))
    )
    return found


@pytest.mark.parametrize("case", CASES)
def test_kernel_fits_its_chip_without_spills(
    compiled: dict[str, dict[str, Any]], case: str
) -> None:
    assert compiled[case]["registers"] > 0
    assert compiled[case]["failures"] == []
    assert compiled[case]["spill_bytes"] == 0


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith(("block_", "tier_"))])
def test_copies_load_16_bytes_a_thread(compiled: dict[str, dict[str, Any]], case: str) -> None:
    assert compiled[case]["load_bytes"] == 16


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith(("dec", "pre"))])
def test_attention_loads_ahead(compiled: dict[str, dict[str, Any]], case: str) -> None:
    assert compiled[case]["load_bytes"] == 16
    assert compiled[case]["tiles_in_flight"] >= 2


def test_spills_are_noticed(compiled: dict[str, dict[str, Any]]) -> None:
    assert compiled[f"{SPILLING} sm_90"]["spill_bytes"] > 0
    assert "spills" in str(compiled[f"{SPILLING} sm_90"]["failures"])


def test_too_much_shared_memory_is_noticed(compiled: dict[str, dict[str, Any]]) -> None:
    assert "shared memory, of 101376" in str(compiled[f"{TOO_LARGE} sm_86"]["failures"])


def test_launches_ask_for_what_is_compiled_ahead_of_time() -> None:
    different = json.loads(run_module("tests.engine.paged.kernels.launches"))
    assert len(different) > 10
    assert {name: parts for name, parts in different.items() if parts} == {}
