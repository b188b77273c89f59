from __future__ import annotations

import numpy as np
import pytest

from rlkv_engine.errors import InputError
from rlkv_service.deciding.confidence import Calibration


def row(low: float, high: float, num: int, worse: float) -> dict[str, float]:
    return {"low": low, "high": high, "num": num, "worse": worse, "better": 0.0}


def test_without_a_table_the_probability_stands_for_itself() -> None:
    calibration = Calibration({})
    assert calibration.is_raw
    np.testing.assert_array_equal(calibration(np.array([0.4, 0.9])), [0.4, 0.9])


def test_confidence_is_how_often_it_was_no_worse() -> None:
    calibration = Calibration({"reliability": [row(0.5, 0.7, 98, 0.5), row(0.9, 1.0, 998, 0.1)]})
    low, high = (98 * 0.5 + 1) / 100, (998 * 0.9 + 1) / 1000
    centres = np.array([0.6, 0.95])
    np.testing.assert_allclose(calibration(centres), [low, high])
    np.testing.assert_allclose(calibration(np.array([0.0, 1.0])), [low, high])
    np.testing.assert_allclose(calibration(np.array([0.775])), [(low + high) / 2])


def test_it_never_falls_with_the_probability() -> None:
    rows = [row(0.5, 0.6, 8, 0.2), row(0.6, 0.7, 98, 0.6), row(0.7, 1.0, 18, 0.0)]
    calibration = Calibration({"reliability": rows[::-1]})
    confidence = calibration(np.linspace(0.0, 1.0, 50))
    assert (np.diff(confidence) >= 0.0).all()
    # The first two are pooled, each by its number.
    pooled = (8 * 0.8 + 1 + 98 * 0.4 + 1) / (10 + 100)
    np.testing.assert_allclose(confidence[:5], pooled)


@pytest.mark.parametrize(
    "rows", [5, [{"low": 0.5}], [row(0.5, 0.6, 0, 0.1)], [row(0.5, 1.6, 3, 0.1)]]
)
def test_a_table_that_cannot_be(rows: object) -> None:
    with pytest.raises(InputError, match="reliability"):
        Calibration({"reliability": rows})
