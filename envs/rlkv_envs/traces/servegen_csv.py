"""ServeGen client files: arrival windows, no sessions.

No header; columns ``window_start_s, rate req/s, CV of gaps, family, shape, scale``; the family
is ``Gamma``, ``Weibull`` or empty (a window without arrivals). One file is one client. The
scale column is redundant: a gap's mean is ``1 / rate``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.errors import InputError
from rlkv_envs.traces.csv_rows import parse_float, read_csv

FAMILIES = ("Gamma", "Weibull")
#: Smallest shape accepted: below it nearly all gaps underflow to 0.
MIN_SHAPE = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Equal windows that follow one another; arrays of shape ``[num_windows]``."""

    window_s: float
    rate_per_s: NDArray[np.float64]
    cv: NDArray[np.float64]
    family: tuple[str, ...]  # "Gamma", "Weibull" or "" (no arrivals)
    shape: NDArray[np.float64]

    @property
    def mean_rate_per_s(self) -> float:
        """Arrivals a second over all windows."""
        return float(self.rate_per_s.mean())

    def unit_gap(self, rng: np.random.Generator, window: int) -> float:
        """A gap of mean 1 with the shape of one window (exponential where it has none)."""
        shape = float(self.shape[window])
        if self.family[window] == "Gamma":
            return float(rng.standard_gamma(shape)) / shape
        if self.family[window] == "Weibull":
            return float(rng.weibull(shape)) / math.gamma(1.0 + 1.0 / shape)
        return float(rng.standard_exponential())


def read_windows(path: Path | str) -> Windows:
    """Reads one client's windows.

    Raises:
        InputError: with the file, the line and the reason.
    """
    starts_s: list[float] = []
    rates: list[float] = []
    cvs: list[float] = []
    families: list[str] = []
    shapes: list[float] = []
    for line, row in read_csv(path):
        if len(row) != 6:
            raise InputError(f"expected 6 columns, got {len(row)}", path=path, line=line)
        start_s, rate, cv, shape = (
            parse_float(row[column], name, path=path, line=line)
            for column, name in ((0, "window_start_s"), (1, "rate"), (2, "cv"), (4, "shape"))
        )
        family = row[3]
        if rate > 0 and family not in FAMILIES:
            reason = f"unknown family {family!r}: one of {', '.join(FAMILIES)}"
            raise InputError(reason, path=path, line=line)
        if rate > 0 and shape < MIN_SHAPE:
            raise InputError(f"shape {shape} below {MIN_SHAPE}", path=path, line=line)
        if starts_s and start_s <= starts_s[-1]:
            raise InputError("windows must be in order of their start", path=path, line=line)
        if len(starts_s) > 1 and not math.isclose(
            start_s - starts_s[-1], starts_s[1] - starts_s[0]
        ):
            raise InputError("windows must all have one length", path=path, line=line)
        starts_s.append(start_s)
        rates.append(rate)
        cvs.append(cv)
        families.append(family if rate > 0 else "")
        shapes.append(shape)
    if len(starts_s) < 2:
        raise InputError("fewer than two windows in the file", path=path)
    if not any(rates):
        raise InputError("no window has arrivals", path=path)
    return Windows(
        window_s=starts_s[1] - starts_s[0],
        rate_per_s=np.array(rates),
        cv=np.array(cvs),
        family=tuple(families),
        shape=np.array(shapes),
    )
