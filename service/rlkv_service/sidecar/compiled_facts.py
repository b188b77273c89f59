"""Facts of a request into rows, compiled: a few numbers, for which NumPy takes many steps."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.facts import NUM_FACTS, POINT
from rlkv_engine.jit import jit
from rlkv_service.columns import LEAST, MAY_BE_UNKNOWN, MOST, check_facts

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]


def read_facts(numbers: F8, start: I8, stride: I8, num: int) -> F8:
    """As ``columns.read_facts``."""
    facts = np.empty((num, NUM_FACTS))
    if not _gather(numbers, start, stride, LEAST, MOST, MAY_BE_UNKNOWN, facts):
        check_facts(facts)
    return facts


@jit
def _gather(
    numbers: F8,
    start: I8,
    stride: I8,
    least: F8,
    most: F8,
    may_be_unknown: NDArray[np.bool_],
    facts: F8,
) -> bool:
    """Fills ``facts`` ``[n, NUM_FACTS]``; whether all of them can be."""
    possible = True
    for row in range(facts.shape[0]):
        for i in range(facts.shape[1]):
            value = numbers[start[i] + row * stride[i]]
            facts[row, i] = value
            if math.isnan(value):
                possible = possible and may_be_unknown[i]
            elif not (value >= least[i] and value <= most[i]):
                possible = False
        point = facts[row, POINT]
        possible = possible and point == math.floor(point)
    return possible
