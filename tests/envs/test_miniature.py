"""Workloads brought to the size of a small model."""

from __future__ import annotations

import numpy as np
import pytest

from rlkv_engine.errors import InputError
from rlkv_envs.workloads import make_workload
from rlkv_envs.workloads.arrivals import Poisson
from rlkv_envs.workloads.compose import make_trace
from rlkv_envs.workloads.miniature import Miniature


@pytest.mark.parametrize("name", ["crossover", "coding-agent", "infercept"])
def test_contexts_fit_and_pauses_have_the_mean_that_was_asked_for(name: str) -> None:
    source = make_workload(name)
    small = Miniature(source, max_context_tokens=256, mean_pause_s=0.2)
    trace = make_trace(small, Poisson(10.0), seed=1, split="test", num_sessions=300)
    trace.validate()
    assert trace.max_context_tokens <= 256
    assert trace.mean_pause_s() == pytest.approx(0.2, rel=0.4)
    large = source.bodies(np.random.default_rng(0), "test", 300)
    ratio = trace.input_tokens.mean() / large.input_tokens.mean()
    assert 0.0 < ratio < 1.0
    assert small.tools == source.tools and small.name == source.name


def test_long_pauses_end() -> None:
    small = Miniature(
        make_workload("crossover"), max_context_tokens=128, mean_pause_s=0.1, max_pause_s=0.3
    )
    pauses = small.bodies(np.random.default_rng(0), "train", 200).pause_s
    assert np.nanmax(pauses) == 0.3


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="mean_pause_s must be positive, got 0"):
        Miniature(make_workload("crossover"), max_context_tokens=128, mean_pause_s=0)
    small = Miniature(make_workload("crossover"), max_context_tokens=8, mean_pause_s=1.0)
    with pytest.raises(InputError, match="16 or more, got 8"):
        small.bodies(np.random.default_rng(0), "train", 10)
