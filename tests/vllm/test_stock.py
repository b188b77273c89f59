"""vLLM without the plug-in, with it switched off, and with it unable to work: all the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rlkv_service.adapters.vllm import support
from tests.vllm.engine import NUM_BLOCKS, TestEngine, strangers, tokens


def agents_turns(engine: TestEngine) -> tuple[list[int], list[int], int, int]:
    """Two turns with strangers between: both answers, cached tokens, free blocks at the end."""
    first = tokens(1, 960)
    answer, _ = engine.ask(first, 8, session="agent")
    strangers(engine)
    again, cached = engine.ask(first + answer + tokens(2, 40), 8, session="agent")
    free = engine.num_free
    engine.close()
    return answer, again, cached, free


@pytest.fixture(scope="module")
def stock(model_folder: Path) -> tuple[list[int], list[int], int, int]:
    return agents_turns(TestEngine(model_folder))


def test_stock_vllm_finds_nothing(stock: tuple[list[int], list[int], int, int]) -> None:
    *_, cached, free = stock
    assert cached == 0 and free == NUM_BLOCKS - 1


@pytest.mark.parametrize(
    ("config", "version", "why"),
    [
        ({"policy": "off"}, None, "policy is off"),
        ({"policy": "preserve"}, "0.99.1", "vLLM 0.99.1 was never tested"),
        ({"polcy": "preserve"}, None, "there is no setting 'polcy'"),
    ],
)
def test_without_the_plug_in_serving_goes_on(
    model_folder: Path,
    stock: tuple[list[int], list[int], int, int],
    monkeypatch: pytest.MonkeyPatch,
    config: Mapping[str, Any],
    version: str | None,
    why: str,
) -> None:
    if version is not None:
        monkeypatch.setattr(support, "VLLM_VERSION", version)
    engine = TestEngine(model_folder, config)
    assert why in engine.connector.why_off and "\n" not in engine.connector.why_off
    assert agents_turns(engine) == stock


def test_always_preserve(model_folder: Path, stock: tuple[list[int], list[int], int, int]) -> None:
    engine = TestEngine(model_folder, {"policy": "ttl", "ttl_s": 600})
    answer, again, cached, _ = agents_turns(engine)
    assert (answer, again, cached) == (*stock[:2], 960)
