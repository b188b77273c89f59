from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rlkv_engine.errors import InputError
from rlkv_envs.traces.servegen_csv import Windows
from rlkv_envs.workloads.arrivals import (
    ArrivalProcess,
    ClosedLoop,
    GammaRenewal,
    Poisson,
    ServeGenWindows,
    Stamps,
)

PROCESSES: list[ArrivalProcess] = [
    Poisson(0.5),
    GammaRenewal(2.0, 4.0),
    GammaRenewal(2.0, 0.3),
    ClosedLoop(8),
    Stamps(np.array([3.0, 3.0, 7.0])),
    *(ServeGenWindows.example(name) for name in ServeGenWindows.example_names()),
]


def times(process: ArrivalProcess, num_sessions: int, seed: int = 0) -> NDArray[np.float64]:
    return process.arrival_times_s(np.random.default_rng(seed), num_sessions)


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_times_ascend_and_are_reproducible(process: ArrivalProcess) -> None:
    drawn = times(process, 500)
    assert drawn.shape == (500,) and drawn.dtype == np.float64
    assert drawn[0] >= 0 and (np.diff(drawn) >= 0).all() and np.isfinite(drawn).all()
    np.testing.assert_array_equal(drawn, times(process, 500))


@given(rate=st.floats(1e-3, 1e3), factor=st.floats(0.1, 10))
def test_the_rate_only_stretches_time(rate: float, factor: float) -> None:
    for at in (Poisson, lambda r: GammaRenewal(r, 3.0)):
        slow, fast = times(at(rate), 20), times(at(rate * factor), 20)
        np.testing.assert_allclose(slow, fast * factor, rtol=1e-9)


@pytest.mark.parametrize("cv", [0.5, 1.0, 4.0])
def test_gamma_has_the_asked_rate_and_burstiness(cv: float) -> None:
    gaps = np.diff(times(GammaRenewal(2.0, cv), 200_000))
    assert gaps.mean() == pytest.approx(0.5, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_poisson_has_the_asked_rate() -> None:
    gaps = np.diff(times(Poisson(4.0), 100_000))
    assert gaps.mean() == pytest.approx(0.25, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.02)


def test_closed_loop_says_how_many_at_a_time() -> None:
    assert ClosedLoop(8).num_concurrent == 8 and Poisson(1.0).num_concurrent == 0
    assert times(ClosedLoop(8), 100)[-1] < 1e-3


def windows(family: str, shape: float) -> Windows:
    """A quiet window between two busy ones."""
    return Windows(
        window_s=100.0,
        rate_per_s=np.array([1.0, 0.0, 4.0]),
        cv=np.ones(3),
        family=(family, "", family),
        shape=np.array([shape, 0.0, shape]),
    )


@pytest.mark.parametrize(("family", "shape"), [("Gamma", 0.5), ("Weibull", 0.7), ("Gamma", 2.0)])
def test_windows_keep_their_rates(family: str, shape: float) -> None:
    drawn = times(ServeGenWindows(windows(family, shape)), 20_000)
    counts = np.histogram(drawn, np.arange(0, 4) * 100.0)[0]
    assert counts[1] == 0
    per_cycle = np.bincount((drawn // 100).astype(int) % 3)[[0, 2]] / (drawn[-1] / 300)
    np.testing.assert_allclose(per_cycle, [100, 400], rtol=0.06)


def test_window_scale_changes_rates_not_time() -> None:
    drawn = times(ServeGenWindows(windows("Gamma", 1.0), rate_scale=3.0), 20_000)
    assert len(drawn) / drawn[-1] == pytest.approx(3 * 5 / 3, rel=0.05)


def test_shipped_windows_have_their_mean_rate() -> None:
    for name in ServeGenWindows.example_names():
        process = ServeGenWindows.example(name)
        drawn = times(process, 20_000)
        assert 20_000 / drawn[-1] == pytest.approx(process.windows.mean_rate_per_s, rel=0.15)


def test_windows_from_a_client_file(tmp_path: Path) -> None:
    path = tmp_path / "chunk.csv"
    path.write_text("0,2,1,Gamma,1,0.5\n600,0,0,,0,0\n")
    drawn = times(ServeGenWindows.from_csv(path), 3000)
    assert ((drawn % 1200) < 600).all()


def test_stamps_repeat_and_stretch() -> None:
    stamps = Stamps(np.array([10.0, 11.0, 14.0]))
    assert times(stamps, 7).tolist() == [0, 1, 4, 6, 7, 10, 12]
    faster = Stamps(np.array([10.0, 11.0, 14.0]), rate_per_s=2.0)
    assert times(faster, 3).tolist() == [0, 0.25, 1.0]


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_values_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="rate_per_s"):
        Poisson(bad)
    with pytest.raises(InputError, match="cv"):
        GammaRenewal(1.0, bad)
    with pytest.raises(InputError, match="rate_scale"):
        ServeGenWindows(windows("Gamma", 1.0), bad)
    with pytest.raises(InputError, match="stamps"):
        Stamps(np.array([0.0, bad if bad != 0 else -1.0, -5.0]))


def test_bad_choices_are_refused() -> None:
    with pytest.raises(InputError, match="num_concurrent"):
        ClosedLoop(0)
    with pytest.raises(InputError, match="bursty-client"):
        ServeGenWindows.example("nobody")
    with pytest.raises(InputError, match="two finite"):
        Stamps(np.array([1.0]))
    with pytest.raises(InputError, match="not all equal"):
        Stamps(np.array([1.0, 1.0]))
