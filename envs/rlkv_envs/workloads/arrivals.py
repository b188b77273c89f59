"""When sessions arrive: Poisson, closed loop, bursts, and recorded stamps.

Every process draws unit-rate gaps and scales them by the rate, so that one seed gives the same
pattern of arrivals, stretched, at every rate (common random numbers).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.errors import InputError
from rlkv_envs.traces.servegen_csv import Windows, read_windows
from rlkv_envs.workloads.parameters import load_parameters

#: A closed loop starts its sessions this far apart, so that their order is defined.
CLOSED_LOOP_STAGGER_S = 1e-6


class ArrivalProcess(ABC):
    """Draws the arrival times of sessions; immutable."""

    #: 0: open loop. N: a closed loop with N sessions in the system at a time.
    num_concurrent: int = 0

    @abstractmethod
    def arrival_times_s(self, rng: np.random.Generator, num_sessions: int) -> NDArray[np.float64]:
        """Ascending times in seconds from 0, shape ``[num_sessions]``."""


@dataclass(frozen=True, slots=True)
class Poisson(ArrivalProcess):
    """Independent exponential gaps of mean ``1 / rate_per_s``."""

    rate_per_s: float

    def __post_init__(self) -> None:
        _require_positive("rate_per_s", self.rate_per_s)

    def arrival_times_s(self, rng: np.random.Generator, num_sessions: int) -> NDArray[np.float64]:
        """Ascending times in seconds, shape ``[num_sessions]``."""
        return np.cumsum(rng.standard_exponential(num_sessions)) / self.rate_per_s


@dataclass(frozen=True, slots=True)
class GammaRenewal(ArrivalProcess):
    """Independent Gamma gaps of mean ``1 / rate_per_s`` and coefficient of variation ``cv``.

    ``cv`` 1 is Poisson; above 1 arrivals come in bursts.
    """

    rate_per_s: float
    cv: float

    def __post_init__(self) -> None:
        _require_positive("rate_per_s", self.rate_per_s)
        _require_positive("cv", self.cv)

    def arrival_times_s(self, rng: np.random.Generator, num_sessions: int) -> NDArray[np.float64]:
        """Ascending times in seconds, shape ``[num_sessions]``."""
        shape = 1.0 / self.cv**2
        gaps = rng.standard_gamma(shape, num_sessions) / shape
        return np.cumsum(gaps) / self.rate_per_s


@dataclass(frozen=True, slots=True)
class ClosedLoop(ArrivalProcess):
    """``num_concurrent`` sessions at a time: the next one arrives when one ends.

    All times are 0 but for a stagger of one microsecond a session; the engine admits
    session N and later only as earlier ones end.
    """

    num_concurrent: int

    def __post_init__(self) -> None:
        if self.num_concurrent < 1:
            raise InputError(f"num_concurrent must be 1 or more, got {self.num_concurrent}")

    def arrival_times_s(self, rng: np.random.Generator, num_sessions: int) -> NDArray[np.float64]:
        """Zeros plus the stagger, shape ``[num_sessions]``."""
        return np.arange(num_sessions, dtype=np.float64) * CLOSED_LOOP_STAGGER_S


@dataclass(frozen=True, slots=True, eq=False)
class ServeGenWindows(ArrivalProcess):
    """Gamma or Weibull gaps whose rate and shape change from window to window.

    Gaps are drawn in expected arrivals, with the shape of the window they begin in, and pass
    at the rate of each window they cross: windows without arrivals are skipped, and after the
    last window the first follows again.

    Attributes:
        windows: one client's windows, of equal length.
        rate_scale: factor on every window's rate (time itself is not stretched).
    """

    windows: Windows
    rate_scale: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("rate_scale", self.rate_scale)
        if not np.any(self.windows.rate_per_s > 0):
            raise InputError("no window has a rate above 0")

    @classmethod
    def example(cls, name: str, rate_scale: float = 1.0) -> ServeGenWindows:
        """One of the shipped examples (their names: ``example_names()``)."""
        table = load_parameters("arrivals")["windows"]
        if name not in table:
            raise InputError(f"unknown windows {name!r}: one of {', '.join(sorted(table))}")
        rows = table[name]
        windows = Windows(
            window_s=float(rows["window_s"]),
            rate_per_s=np.array(rows["rate_per_s"], np.float64),
            cv=np.array(rows["cv"], np.float64),
            family=tuple(rows["family"]),
            shape=np.array(rows["shape"], np.float64),
        )
        return cls(windows, rate_scale)

    @staticmethod
    def example_names() -> tuple[str, ...]:
        """Names of the shipped example windows."""
        return tuple(sorted(load_parameters("arrivals")["windows"]))

    @classmethod
    def from_csv(cls, path: Path | str, rate_scale: float = 1.0) -> ServeGenWindows:
        """Windows of one client from a ServeGen chunk file."""
        return cls(read_windows(path), rate_scale)

    def arrival_times_s(self, rng: np.random.Generator, num_sessions: int) -> NDArray[np.float64]:
        """Ascending times in seconds, shape ``[num_sessions]``."""
        windows = self.windows
        rates = windows.rate_per_s * self.rate_scale
        times_s = np.empty(num_sessions)
        index, passed_s = 0, 0.0  # window since the start, seconds passed in it
        for i in range(num_sessions):
            position = index % len(rates)
            expected = windows.unit_gap(rng, position)  # arrivals expected until the next one
            while expected >= rates[position] * (windows.window_s - passed_s):
                expected -= rates[position] * (windows.window_s - passed_s)
                index, passed_s = index + 1, 0.0
                position = index % len(rates)
            passed_s += expected / rates[position]
            times_s[i] = index * windows.window_s + passed_s
        return times_s


@dataclass(frozen=True, slots=True, eq=False)
class Stamps(ArrivalProcess):
    """A trace's own arrival times, from 0, optionally stretched to a rate.

    With more sessions asked for than there are stamps, the stamps follow again after one mean
    gap. There is no randomness.

    Attributes:
        stamps_s: ascending, shape ``[num_stamps]``.
        rate_per_s: mean rate after stretching; None keeps the recorded times.
    """

    stamps_s: NDArray[np.float64]
    rate_per_s: float | None = None

    def __post_init__(self) -> None:
        if self.rate_per_s is not None:
            _require_positive("rate_per_s", self.rate_per_s)
        if len(self.stamps_s) < 2 or not np.all(np.isfinite(self.stamps_s)):
            raise InputError("stamps need two finite arrival times or more")
        if np.any(np.diff(self.stamps_s) < 0) or self.stamps_s[0] == self.stamps_s[-1]:
            raise InputError("stamps must be ascending and not all equal")

    def arrival_times_s(self, rng: np.random.Generator, num_sessions: int) -> NDArray[np.float64]:
        """Ascending times in seconds, shape ``[num_sessions]``."""
        stamps_s = np.asarray(self.stamps_s, np.float64) - self.stamps_s[0]
        num_stamps = len(stamps_s)
        mean_gap_s = float(stamps_s[-1]) / (num_stamps - 1)
        index = np.arange(num_sessions)
        period_s = float(stamps_s[-1]) + mean_gap_s
        times_s: NDArray[np.float64] = (
            stamps_s[index % num_stamps] + (index // num_stamps) * period_s
        )
        return times_s if self.rate_per_s is None else times_s / (mean_gap_s * self.rate_per_s)


def _require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{name} must be a finite number above 0, got {value}")
