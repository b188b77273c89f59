"""The table of expected remainders, against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rlkv_engine.estimates import GRID_S, HORIZON_PAUSES, fit_pause_table, table_remaining_s
from tests.engine.reference_session import Turn
from tests.engine.reference_worlds import make_trace

pauses_s = st.lists(st.floats(1e-3, 1e4), min_size=8, max_size=60)


def table_of(values_s: list[float]) -> NDArray[np.float64]:
    turns = [Turn(8, 0, 2, value) for value in values_s] + [Turn(8, 0, 2, float("nan"))]
    return fit_pause_table(make_trace([turns], [0.0])).residual_s


@settings(max_examples=50, deadline=None)
@given(pauses_s)
def test_an_entry_is_the_mean_remainder_within_the_horizon(values_s: list[float]) -> None:
    pauses = np.array(values_s)
    horizon_s = HORIZON_PAUSES * pauses.mean()
    row = table_of(values_s)[0]
    for elapsed_s, entry_s in zip(GRID_S, row, strict=True):
        longer = pauses[pauses > elapsed_s]
        if len(longer) >= 3:
            expected_s = np.minimum(longer - elapsed_s, horizon_s).mean()
            assert entry_s == pytest.approx(max(expected_s, 1e-6), rel=1e-6, abs=1e-9)
        assert 0.0 < entry_s <= horizon_s


def test_a_long_tail_does_not_outweigh_what_is_usual() -> None:
    # 95 pauses of 2 s and five of 10,000 s: 500 s in the mean, about as likely back at once.
    row = table_of([2.0] * 95 + [10_000.0] * 5)[0]
    assert table_remaining_s(row[None, :], 0, 0.0) == pytest.approx(
        0.95 * 2.0 + 0.05 * HORIZON_PAUSES * 501.9, rel=1e-3
    )
