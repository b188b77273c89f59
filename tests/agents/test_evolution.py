from __future__ import annotations

import numpy as np
import pytest

from rlkv_agents.evolution import antithetic, centred_ranks, slope


def test_noise_comes_in_opposite_pairs() -> None:
    noise = antithetic(np.random.default_rng(0), 500, (2, 3))
    assert noise.shape == (1000, 2, 3) and noise.dtype == np.float32
    np.testing.assert_array_equal(noise[:500], -noise[500:])
    assert noise.std() == pytest.approx(1.0, abs=0.05)


def test_ranks_by_hand() -> None:
    np.testing.assert_allclose(centred_ranks(np.array([7.0, -1.0, 900.0])), [0.0, -0.5, 0.5])
    # Equal values share the ranks that they take up.
    np.testing.assert_allclose(
        centred_ranks(np.array([2.0, 1.0, 2.0, 3.0, 2.0])), [0.0, -0.5, 0.0, 0.5, 0.0]
    )
    np.testing.assert_array_equal(centred_ranks(np.array([5.0])), [-0.5])
    np.testing.assert_array_equal(centred_ranks(np.full(4, 3.0)), np.zeros(4))


def test_the_slope_points_uphill_and_is_blind_to_units() -> None:
    noise = antithetic(np.random.default_rng(1), 2000, (3,))
    uphill = np.array([3.0, -4.0, 0.0])
    costs = noise @ uphill
    found = slope(noise, costs, 0.1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found / np.linalg.norm(found), uphill / 5.0, atol=0.05)
    np.testing.assert_array_equal(slope(noise, 1000.0 * costs + 7.0, 0.1), found)
    np.testing.assert_allclose(slope(noise, costs, 0.2), found / 2, rtol=1e-5)
    np.testing.assert_array_equal(slope(noise, np.zeros(len(noise)), 0.1), np.zeros(3))


def test_steps_down_the_slope_reach_a_valley() -> None:
    at, goal = np.zeros(4, np.float32), np.array([1.0, -1.0, 0.5, 0.0])
    for number in range(200):
        noise = antithetic(np.random.default_rng(number), 16, (4,))
        costs = np.array([np.abs(at + 0.1 * each - goal).sum() for each in noise])
        at -= 0.01 * slope(noise, costs, 0.1)
    np.testing.assert_allclose(at, goal, atol=0.1)
