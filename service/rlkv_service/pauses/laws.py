"""Survival functions of pauses, and what is left of pauses that last already: compiled.

A law is the share of pauses that last beyond each edge of the bins, and the integral of that share
from 0 to the edge, ``[NUM_EDGES]`` each; between edges the share is linear. What is left after
``e`` seconds follows from the law beyond ``e``: only ratios matter, so laws that are mixed need not
be divided by their weight.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.jit import jit
from rlkv_service.pauses.bins import BINS_PER_DECADE, LOW_S, NUM_BINS, edges_s

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

#: Weights below this are forgotten altogether: a sketch stays sparse.
TINY = 1e-9


@jit
def add_pause(sketch: F8, bin_index: int, kept: float) -> None:
    """Forgets all but a share ``kept`` of a sketch ``[NUM_BINS]``, and adds one pause to it."""
    if kept < 1.0:
        for k in range(NUM_BINS):
            weight = sketch[k] * kept
            sketch[k] = weight if weight >= TINY else 0.0
    sketch[bin_index] += 1.0


@jit
def fill_law(sketch: F8, pseudo: float, above: F8, edges: F8, survival: F8, integral: F8) -> None:
    """The law of a sketch with ``pseudo`` pauses more that follow the law ``above``."""
    total = pseudo
    for k in range(NUM_BINS):
        total += sketch[k]
    beyond = 0.0
    survival[NUM_BINS] = pseudo * above[NUM_BINS] / total
    for k in range(NUM_BINS - 1, -1, -1):
        beyond += sketch[k]
        survival[k] = (beyond + pseudo * above[k]) / total
    integral[0] = 0.0
    for k in range(NUM_BINS):
        width = edges[k + 1] - edges[k]
        integral[k + 1] = integral[k] + 0.5 * width * (survival[k] + survival[k + 1])


@jit
def refresh_laws(
    rows: I8,
    version_of: I8,
    version: int,
    sketches: F8,
    pseudo: float,
    above: F8,
    edges: F8,
    survival: F8,
    integral: F8,
) -> None:
    """``fill_law`` for each of ``rows`` whose law is not of ``version``; rows below 0 are none."""
    for i in range(rows.shape[0]):
        row = rows[i]
        if row >= 0 and version_of[row] != version:
            fill_law(sketches[row], pseudo, above, edges, survival[row], integral[row])
            version_of[row] = version


@jit
def _bin(duration_s: float) -> int:
    # As bins.bin_of.
    if duration_s < LOW_S:
        return 0
    return min(1 + int(math.log10(duration_s / LOW_S) * BINS_PER_DECADE), NUM_BINS - 1)


@jit
def _survival(
    k: int, law: F8, doubt: float, own: NDArray[np.uint16], num: int, weight: F8, spread: F8
) -> float:
    # At edge k, times the weight of everything: doubt pauses of the law, and a session's own.
    total = doubt * law[k]
    for j in range(num):
        total += weight[j] * spread[NUM_BINS + k - own[j]]
    return total


@jit
def _integral(
    k: int,
    law: F8,
    doubt: float,
    own: NDArray[np.uint16],
    num: int,
    weight: F8,
    spread_integral: F8,
    edges: F8,
) -> float:
    total = doubt * law[k]
    for j in range(num):
        if k > 0:
            # Bins are even in the logarithm: one table serves pauses of all lengths.
            unit = edges[own[j]] if own[j] > 0 else LOW_S
            total += weight[j] * unit * spread_integral[NUM_BINS + k - own[j]]
    return total


@jit
def fill_remaining(
    rows: I8,
    survival: F8,
    integral: F8,
    own_rows: I8,
    own_bins: NDArray[np.uint16],
    own_num: I8,
    weight: F8,
    doubt: float,
    spread: F8,
    spread_integral: F8,
    edges: F8,
    elapsed_s: F8,
    horizon_s: float,
    levels: F8,
    mean_s: F8,
    quantiles_s: F8,
) -> None:
    """What is left of pauses, given how long they have lasted.

    Args:
        rows: the law of each pause, shape ``[n]``.
        survival: of each law, shape ``[num_laws, NUM_EDGES]``.
        integral: likewise.
        own_rows: the session's own pauses on the tool, a row of ``own_bins``; -1: none. ``[n]``.
        own_bins: their bins, the newest first, shape ``[num_rows, num_kept]``.
        own_num: how many there are, shape ``[num_rows]``.
        weight: of the newest, the one before it, ..., shape ``[num_kept]``.
        doubt: pauses that the law counts as, beside the own ones.
        spread: survival function of one own pause, by edges between it and its bin, whose place is
            ``NUM_BINS``, shape ``[2 * NUM_BINS + 1]``.
        spread_integral: its integral, in units of the lower edge of its bin.
        edges: of the bins, shape ``[NUM_EDGES]``.
        elapsed_s: shape ``[n]``.
        horizon_s: what lasts longer counts as so long in the mean.
        levels: of the quantiles, shape ``[m]``.
        mean_s: receives the means, shape ``[n]``.
        quantiles_s: receives the quantiles, shape ``[m, n]``.
    """
    last_s = edges[NUM_BINS]
    for i in range(rows.shape[0]):
        elapsed = elapsed_s[i]
        if elapsed >= last_s:
            # Beyond all bins a heavy tail: as long again as it has lasted.
            mean_s[i] = min(horizon_s, elapsed)
            for q in range(levels.shape[0]):
                quantiles_s[q, i] = elapsed * levels[q] / (1.0 - levels[q])
            continue
        law, area = survival[rows[i]], integral[rows[i]]
        num = own_num[own_rows[i]] if own_rows[i] >= 0 else 0
        own = own_bins[max(own_rows[i], 0)]
        k = _bin(elapsed)
        low = _survival(k, law, doubt, own, num, weight, spread)
        high = _survival(k + 1, law, doubt, own, num, weight, spread)
        into = elapsed - edges[k]
        now = low + (high - low) * into / (edges[k + 1] - edges[k])
        area_now = _integral(k, area, doubt, own, num, weight, spread_integral, edges)
        area_now += 0.5 * (low + now) * into

        until = elapsed + horizon_s
        end = min(_bin(until), NUM_BINS - 1)
        into = until - edges[end]
        at_end = _survival(end, law, doubt, own, num, weight, spread)
        at_next = _survival(end + 1, law, doubt, own, num, weight, spread)
        share = min(into / (edges[end + 1] - edges[end]), 1.0)
        at_until = at_end + (at_next - at_end) * share
        area_until = _integral(end, area, doubt, own, num, weight, spread_integral, edges)
        area_until += 0.5 * (at_end + at_until) * min(into, edges[end + 1] - edges[end])
        if until > last_s:
            area_until += (until - last_s) * at_until
        mean_s[i] = min(max((area_until - area_now) / now, 1e-6), horizon_s)

        for q in range(levels.shape[0]):
            target = now * (1.0 - levels[q])
            below, above = k, NUM_BINS  # at below more than the target are left
            left_below = now
            left_above = _survival(above, law, doubt, own, num, weight, spread)
            if left_above > target:
                quantiles_s[q, i] = last_s - elapsed
                continue
            while above - below > 1:
                middle = (above + below) // 2
                left = _survival(middle, law, doubt, own, num, weight, spread)
                if left > target:
                    below, left_below = middle, left
                else:
                    above, left_above = middle, left
            start = max(edges[below], elapsed)
            gap = left_below - left_above
            part = (left_below - target) / gap if gap > 0.0 else 1.0
            quantiles_s[q, i] = max(start + part * (edges[above] - start) - elapsed, 0.0)


def spread_tables(log_spread: float) -> tuple[F8, F8]:
    """``spread`` and ``spread_integral`` of a pause that is repeated up to a factor.

    Args:
        log_spread: standard deviation of the logarithm of that factor; 0: exactly.
    """
    step = math.log(10.0) / BINS_PER_DECADE
    offset = np.arange(-NUM_BINS, NUM_BINS + 1) * step  # edge less lower edge of the bin
    if log_spread > 0.0:
        # Normal around the middle of the bin.
        z = (offset - 0.5 * step) / (log_spread * math.sqrt(2.0))
        spread = 0.5 * np.array([math.erfc(each) for each in z])
    else:
        spread = (offset < 0.5 * step).astype(np.float64)
    at = np.exp(offset)
    parts = 0.5 * np.diff(at) * (spread[1:] + spread[:-1])
    return spread, at[0] + np.concatenate([[0.0], np.cumsum(parts)])


def heavy_tail(scale_s: float) -> F8:
    """Survival function of what is known before anything is seen: ``s / (s + t)``."""
    return scale_s / (scale_s + edges_s())
