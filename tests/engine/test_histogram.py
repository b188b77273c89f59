from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from rlkv_engine.histogram import EDGES_S, HIGH_S, LOW_S, NUM_BINS, ROW, Histogram, add_duration

#: Width of a bin over its lower end; a hair more for rounding at the ends.
WIDTH = 10 ** (1 / 230) - 1 + 1e-9
PARTS = [0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 1.0]

inside_s = st.floats(math.log(LOW_S), math.log(0.999 * HIGH_S)).map(math.exp)
#: Few values, so that many are equal, and many values.
samples_s = st.one_of(
    st.lists(inside_s, min_size=1, max_size=300),
    st.lists(st.sampled_from([LOW_S, 2e-4, 0.01, 0.0101, 0.0102, 1.0, 60.0, 9e5]), min_size=1),
)


def histogram_of(values_s: list[float]) -> Histogram:
    row = np.zeros(ROW)
    for value_s in values_s:
        add_duration(row, float(value_s))
    return Histogram(row)


@given(samples_s, st.lists(st.floats(0, 1), max_size=5))
@settings(max_examples=300, deadline=None)
def test_quantiles_are_those_of_numpy_within_a_bin(
    values_s: list[float], parts: list[float]
) -> None:
    histogram = histogram_of(values_s)
    expected = np.quantile(values_s, PARTS + parts)
    np.testing.assert_allclose(histogram.quantiles_s(PARTS + parts), expected, rtol=WIDTH)
    assert histogram.count == len(values_s)
    assert histogram.mean_s == pytest.approx(np.mean(values_s), rel=1e-12)


@pytest.mark.parametrize("shape", ["lognormal", "exponential", "two humps"])
def test_quantiles_of_many_latencies(shape: str) -> None:
    rng = np.random.default_rng(0)
    values_s = {
        "lognormal": rng.lognormal(-3.0, 1.5, 100_000),
        "exponential": rng.exponential(0.03, 100_000) + 1e-3,
        "two humps": np.concatenate(
            [rng.normal(0.02, 1e-3, 70_000), rng.normal(40.0, 2.0, 30_000)]
        ),
    }[shape]
    parts = [k / 100 for k in range(1, 100) if k != 70]
    got = histogram_of(values_s.tolist()).quantiles_s(parts)
    np.testing.assert_allclose(got, np.quantile(values_s, parts), rtol=WIDTH)
    # Where many share a bin it is closer.
    middle = got[parts.index(0.5)]
    assert middle == pytest.approx(np.quantile(values_s, 0.5), rel=0.002)


@given(st.lists(inside_s, max_size=50), st.lists(inside_s, max_size=50))
@settings(deadline=None)
def test_a_sum_holds_what_both_hold(one_s: list[float], other_s: list[float]) -> None:
    both = histogram_of(one_s) + histogram_of(other_s)
    together = histogram_of(one_s + other_s)
    assert (both.row[1:] == together.row[1:]).all()
    assert both.row[0] == pytest.approx(together.row[0], rel=1e-12)


def test_every_edge_and_every_middle_has_its_bin() -> None:
    middles_s = (EDGES_S[1:-2] + EDGES_S[2:-1]) / 2
    row = np.zeros(ROW)
    for middle_s in middles_s:
        add_duration(row, middle_s)
    np.testing.assert_array_equal(row[1:], [0.0] + [1.0] * (NUM_BINS - 2) + [0.0])
    np.testing.assert_allclose(EDGES_S[2:-1] / EDGES_S[1:-2], 1 + WIDTH, rtol=1e-8)
    assert EDGES_S[1] == LOW_S and EDGES_S[-2:] == pytest.approx([HIGH_S, HIGH_S])


def test_what_lies_outside_is_counted_and_summed() -> None:
    histogram = histogram_of([0.0, 1e-9, 0.99 * LOW_S, LOW_S, HIGH_S, 1e300, math.inf])
    assert histogram.row[1] == 3 and histogram.row[-1] == 3 and histogram.count == 7
    low_s, middle_s, high_s = histogram.quantiles_s([0.0, 0.5, 1.0])
    assert 0 <= low_s < LOW_S < middle_s < LOW_S * (1 + WIDTH) and high_s == HIGH_S
    assert histogram_of([1e-9, 2e7]).mean_s == pytest.approx(1e7)


def test_nothing_has_no_mean() -> None:
    assert histogram_of([]).count == 0
    assert all(
        math.isnan(s) for s in [histogram_of([]).mean_s, *histogram_of([]).quantiles_s([0.5])]
    )


def test_histograms_are_equal_where_all_counts_and_the_sum_are() -> None:
    assert histogram_of([0.5, 1.0]) == histogram_of([0.5, 1.0])
    assert histogram_of([0.5, 1.0]) != histogram_of([0.5, 1.0 + 1e-12])
    assert histogram_of([0.5, 1.0]) != histogram_of([1.5])
