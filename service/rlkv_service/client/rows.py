"""Decisions from what an engine knows, by the names of ``rlkv_engine.facts``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlkv_engine.errors import InputError
from rlkv_engine.facts import FACTS, NUM_FACTS
from rlkv_service.columns import DecisionRows

_INDEX = {fact.name: i for i, fact in enumerate(FACTS)}


def decision_rows(
    sessions: Sequence[str], turns: ArrayLike, tools: Sequence[str], **facts: ArrayLike
) -> DecisionRows:
    """Rows about ``n`` paused sessions.

    Args:
        sessions: names, ``[n]``.
        turns: the turn of each that ended with the call, from 0, ``[n]``.
        tools: what each of them called, ``[n]``.
        facts: by name, ``[n]`` or one number for all; what is not known may be left out, except
            for the facts without a default, or be NaN.

    Raises:
        InputError: a fact is missing, unknown, or of another length.
    """
    num = len(sessions)
    matrix = np.empty((num, NUM_FACTS))
    for fact in FACTS:
        given = facts.get(fact.name, fact.default)
        if given is None:
            raise InputError(f"fact {fact.name} is missing")
        column = _column(given, fact.name, num)
        if fact.default == fact.default and fact.default is not None and np.isnan(column).any():
            column = np.where(np.isnan(column), fact.default, column)
        matrix[:, _INDEX[fact.name]] = column
    for name in facts.keys() - _INDEX.keys():
        raise InputError(f"there is no fact {name}")
    if len(tools) != num:
        raise InputError(f"{len(tools)} tools for {num} sessions")
    numbers = np.empty(num, np.int64)
    numbers[:] = _column(turns, "turns", num)
    return DecisionRows(sessions, numbers, tools, matrix)


def _column(given: ArrayLike, name: str, num: int) -> NDArray[np.float64]:
    column = np.asarray(given, np.float64)
    if column.shape not in ((), (num,)):
        raise InputError(f"{name} has the shape {column.shape}, not ({num},)")
    return column
