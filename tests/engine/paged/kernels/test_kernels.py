"""The kernels give what their references give, under Triton's interpreter and on a GPU.

triton reads ``TRITON_INTERPRET`` when it is imported, so a child process runs all cases.
"""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from tests.engine.paged.kernels import cases
from tests.engine.paged.kernels.child import run_module

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)

GPU = pytest.param(
    "gpu",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    ],
)


@pytest.fixture(scope="module", params=["interpreter", GPU])
def errors(request: pytest.FixtureRequest) -> dict[str, float]:
    module = "tests.engine.paged.kernels.differences"
    if request.param == "gpu":
        printed = run_module(module, "cuda")
    else:
        printed = run_module(module, TRITON_INTERPRET="1")
    found: dict[str, float] = json.loads(printed)
    return found


@pytest.mark.parametrize("name", cases.WRITES)
def test_write_puts_every_bit_in_its_slot(errors: dict[str, float], name: str) -> None:
    assert errors[f"write: {name}"] == 0


@pytest.mark.parametrize("name", cases.COPIES)
@pytest.mark.parametrize("kind", ["gather", "scatter"])
def test_copies_move_every_bit(errors: dict[str, float], kind: str, name: str) -> None:
    assert errors[f"{kind}: {name}"] == 0


@pytest.mark.parametrize("name", cases.TIER_COPIES)
@pytest.mark.parametrize("kind", ["out", "in"])
def test_blocks_change_tier_bit_for_bit(errors: dict[str, float], kind: str, name: str) -> None:
    assert errors[f"{kind}: {name}"] == 0


@pytest.mark.parametrize("name", cases.REDUCES)
def test_reduce_agrees(errors: dict[str, float], name: str) -> None:
    assert errors[f"reduce: {name}"] <= cases.TOLERANCE[cases.REDUCES[name].dtype]


@pytest.mark.parametrize("name", cases.DECODES)
def test_decode_agrees(errors: dict[str, float], name: str) -> None:
    assert errors[f"decode: {name}"] <= cases.TOLERANCE[cases.DECODES[name].dtype]


@pytest.mark.parametrize("name", cases.PREFILLS)
def test_prefill_agrees(errors: dict[str, float], name: str) -> None:
    assert errors[f"prefill: {name}"] <= cases.TOLERANCE[cases.PREFILLS[name].dtype]


@pytest.mark.parametrize("name", cases.BACKENDS)
def test_backend_agrees(errors: dict[str, float], name: str) -> None:
    assert errors[f"backend: {name}"] <= cases.TOLERANCE["float32"]


@pytest.mark.parametrize("name", cases.WRONG_TABLES)
def test_a_wrong_block_table_is_noticed(errors: dict[str, float], name: str) -> None:
    assert errors[f"wrong table: {name}"] > 0.05
