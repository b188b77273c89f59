"""The fit finds the costs that made the samples."""

from __future__ import annotations

import numpy as np
import pytest

from rlkv_engine.errors import InputError
from rlkv_engine.paged.cost_fit import fit_copies, fit_iterations
from rlkv_engine.paged.measuring import CopySample, IterationSample, loads

COSTS = (2e-3, 3e-5, 4e-9, 5e-5, 6e-8)


def samples(noise: float, count: int = 400) -> list[IterationSample]:
    random = np.random.default_rng(0)
    made = []
    for _ in range(count):
        prefill, decode = int(random.integers(0, 256)), int(random.integers(0, 16))
        contexts = prefill * float(random.integers(0, 2000))
        kv = decode * int(random.integers(1, 2000))
        terms = (1.0, prefill, contexts, decode, kv)
        took_s = float(np.dot(COSTS, terms) * random.gamma(1.0 / noise, noise))
        made.append(IterationSample(prefill, contexts, decode, kv, took_s))
    return made


def test_exact_samples_give_the_costs_back() -> None:
    fit = fit_iterations(samples(noise=1e-9))
    found = (
        fit.iteration_s,
        fit.prefill_token_s,
        fit.prefill_token_context_s,
        fit.decode_session_s,
        fit.kv_token_s,
    )
    np.testing.assert_allclose(found, COSTS, rtol=1e-3)
    assert fit.error_ratio < 1e-4


def test_noise_does_not_make_predictions_too_short() -> None:
    # The noise is skewed, as that of a machine is, and its mean is 1.
    fit = fit_iterations(samples(noise=0.3, count=4000))
    assert fit.total_ratio == pytest.approx(1.0, abs=0.03)
    assert fit.iteration_s == pytest.approx(COSTS[0], rel=0.1)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(InputError, match="6 iterations are too few"):
        fit_iterations(samples(noise=0.1, count=6))
    alike = [IterationSample(0, 0.0, 1, 10, 1e-3)] * 50
    with pytest.raises(InputError, match="50 iterations are too few"):
        fit_iterations(alike)


def test_bandwidths_and_the_start_of_a_copy_come_apart() -> None:
    copies = [
        CopySample(out, size, 1e-4 + size * (2e-5 if out else 1e-5))
        for out in (True, False)
        for size in (1, 2, 4, 8, 64)
        for _ in range(3)
    ]
    fit = fit_copies(copies, block_bytes=1000)
    assert fit.latency_s == pytest.approx(1e-4)
    assert fit.out_bytes_per_s == pytest.approx(1000 / 2e-5)
    assert fit.in_bytes_per_s == pytest.approx(1000 / 1e-5)


def test_loads_fit_the_pool_and_the_model() -> None:
    for load in loads(max_tokens=300, max_num_seqs=16, device_tokens=1024, seed=0):
        pairs = list(zip(load.input_tokens, load.output_tokens, strict=True))
        assert all(prompt > 0 and output > 0 and prompt + output <= 300 for prompt, output in pairs)
        assert sum(prompt + output for prompt, output in pairs) <= 1024
