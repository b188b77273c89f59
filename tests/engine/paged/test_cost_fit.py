"""The fit finds the costs that made the samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlkv_engine.errors import InputError
from rlkv_engine.paged.cost_fit import fit_copies, fit_iterations
from rlkv_engine.paged.measuring import (
    CopySample,
    IterationSample,
    Load,
    loads,
    measure_iterations,
)
from tests.engine.paged.small_engine import tiny_profile
from tests.engine.paged.summing_model import summing_model

#: In the order of cost_fit.COSTS.
TRUE_COSTS = (2e-3, 3e-5, 4e-9, 5e-5, 6e-8, 7e-4, 8e-4, 9e-5, 1e-5, 5e-4)


def samples(noise: float, count: int = 400, copies: int = 20) -> list[IterationSample]:
    random = np.random.default_rng(0)
    made = []
    for _ in range(count):
        prefill = int(random.integers(0, 256)) * int(random.integers(0, 2))
        decode = int(random.integers(0, 16))
        contexts = prefill * float(random.integers(0, 2000))
        kv = decode * int(random.integers(1, 2000))
        copied, woken = copies * int(random.integers(0, 3)), bool(random.integers(0, 2))
        has_batch = prefill > 0 or decode > 0
        terms = (1.0, prefill, contexts, decode, kv, prefill > 0, woken, copied > 0, copied)
        costs = np.dot(TRUE_COSTS[:-1], terms) if has_batch else TRUE_COSTS[-1]
        took_s = float(costs * random.gamma(1.0 / noise, noise))
        made.append(IterationSample(prefill, contexts, decode, kv, took_s, copied, woken))
    return made


def test_exact_samples_give_the_costs_back() -> None:
    fit = fit_iterations(samples(noise=1e-9))
    np.testing.assert_allclose(fit.costs, TRUE_COSTS, rtol=1e-3)
    assert fit.error_ratio < 1e-4
    others = samples(noise=1e-9, count=500)[400:]
    np.testing.assert_allclose(fit.predict_s(others), [s.took_s for s in others], rtol=1e-3)


def test_where_nothing_is_copied_copies_cost_nothing() -> None:
    fit = fit_iterations(samples(noise=1e-9, copies=0))
    np.testing.assert_allclose(fit.costs, (*TRUE_COSTS[:7], 0.0, 0.0, TRUE_COSTS[9]), rtol=1e-3)


def test_noise_does_not_make_predictions_too_short() -> None:
    # The noise is skewed, as that of a machine is, and its mean is 1.
    fit = fit_iterations(samples(noise=0.3, count=4000))
    assert fit.total_ratio == pytest.approx(1.0, abs=0.03)
    assert fit.costs[0] == pytest.approx(TRUE_COSTS[0], rel=0.1)


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


@pytest.mark.parametrize(("max_tokens", "device_tokens"), [(300, 1024), (4096, 8192)])
def test_loads_fit_the_pool_and_the_model(max_tokens: int, device_tokens: int) -> None:
    designed = loads(max_tokens, max_num_seqs=16, device_tokens=device_tokens, seed=0)
    assert {load.swaps for load in designed} == {False, True}
    for load in designed:
        pairs = list(zip(load.input_tokens, load.output_tokens, strict=True))
        assert all(prompt > 0 and output > 0 for prompt, output in pairs)
        later = sum(load.returned_tokens), len(load.returned_tokens)
        contexts = [prompt + later[0] + (later[1] + 1) * output for prompt, output in pairs]
        assert max(contexts) <= max_tokens and sum(contexts) <= device_tokens


def test_a_load_has_small_chunks_waking_and_copies_beside_decodes() -> None:
    model = summing_model(400)
    profile = replace(tiny_profile(), num_device_blocks=64, num_host_blocks=64)
    load = Load((40, 60, 50), (6, 9, 12), (3, 5, 8), swaps=True)
    measured = measure_iterations(model, profile, load, seed=0)  # type: ignore[arg-type]
    assert any(0 < s.prefill_tokens < 10 for s in measured)
    assert any(s.woken for s in measured) and not all(s.woken for s in measured)
    assert any(s.copied_blocks > 0 and s.num_decode > 0 for s in measured)
    assert any(s.copied_blocks > 0 and not s.has_batch for s in measured)
    # Less where the machine was so slow that somebody was preempted: a prefill's end gives a token.
    assert 80 < sum(s.num_decode for s in measured) <= 4 * (6 + 9 + 12) - 4 * 3
