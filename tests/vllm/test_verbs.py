from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vllm.engine import BLOCK, NUM_BLOCKS, TestEngine, tokens


@pytest.fixture(scope="module")
def rule(model_folder: Path) -> Iterator[TestEngine]:
    engine = TestEngine(model_folder, {"policy": "discard", "host_gib": 0.05})
    yield engine
    engine.close()


def strangers(engine: TestEngine, num: int = 10, length: int = 600) -> None:
    """Fill memory, one after the other; what they leave is cache as in stock vLLM."""
    for i in range(num):
        engine.ask(tokens(1000 + i, length), 1, hint={"verb": "preserve", "lease_s": 0.0})


@pytest.mark.parametrize("verb", ["preserve", "swap"])
def test_a_verb(rule: TestEngine, verb: str) -> None:
    rule.forget_everything()
    first = tokens(1, 960)
    answer, _ = rule.ask(first, 8, session="a", hint={"verb": verb, "lease_s": 600.0})
    strangers(rule)
    second = first + answer + tokens(2, 40)
    again, cached = rule.ask(second, 8, session="a", hint={"ends": True})
    print(rule.counts, rule.keeper.gauges(), cached)
    assert cached == 960 // BLOCK * BLOCK
    rule.forget_everything()
    alone, cached = rule.ask(second, 8, hint={"ends": True})
    assert cached == 0 and alone == again
    rule.check_pool()
    assert rule.num_free == NUM_BLOCKS - 1
