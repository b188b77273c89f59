"""Judges predictions of pauses as they would have been made: each before its pause was seen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.errors import InputError
from rlkv_engine.estimates import fit_pause_table
from rlkv_engine.trace import Trace
from rlkv_service.pauses.online_pauses import OnlinePauses, PauseWeights

#: Levels that are judged.
LEVELS = (0.5, 0.9)
#: Time that a generated token is taken to need, seconds: it only puts pauses into an order.
TOKEN_S = 0.02
#: Pauses that are needed in each half.
MIN_PAUSES = 50
_LEAST_S = 1e-3


def progressive_losses(trace: Trace, weights: PauseWeights | None = None) -> dict[str, Any]:
    """The online predictor, and the table by tool fitted on the first half, on the second half.

    A pause is predicted when it begins, by what was over then. Sessions that have no arrival follow
    each other evenly, eight at a time.

    Returns:
        ``num_pauses`` judged, and for ``online`` and ``static``: pinball loss by level, of seconds
        (``pinball_s``) and of their natural logarithm (``pinball_log``), and the share of pauses
        that were at most the prediction (``coverage``).

    Raises:
        InputError: too few pauses.
    """
    start_s, end_s, turn = _timeline(trace)
    half = len(turn) // 2
    if half < MIN_PAUSES:
        raise InputError(
            f"{len(turn)} pauses, {2 * MIN_PAUSES} are needed to judge predictions", path=trace.name
        )
    session = np.searchsorted(trace.first_turn, turn, side="right") - 1
    tools = [trace.tools[index] for index in trace.tool[turn]]
    names = [str(index) for index in session]
    pause_s = trace.pause_s[turn]
    online = OnlinePauses(weights)
    said = np.full((len(LEVELS), len(turn)), np.nan)
    # What is over at a moment is known to what begins then.
    order = np.lexsort((np.tile([0, 1], len(turn)), np.stack([end_s, start_s], axis=1).ravel()))
    ended = np.zeros(len(turn), np.bool_)
    for event in order:
        i, begins = divmod(int(event), 2)
        if begins:
            left = online.remaining("", [names[i]], [tools[i]], np.zeros(1))
            said[:, i] = left.p50_s[0], left.p90_s[0]
        else:
            ended[i] = True
            online.add("", names[i], tools[i], float(pause_s[i]), int(1000.0 * end_s[i]))
    by_start = np.argsort(start_s, kind="stable")
    first, second = by_start[:half], by_start[half:]
    # What was not over yet when the second half began nobody could have fitted.
    known = first[end_s[first] <= start_s[second[0]]]
    static = _static(trace, turn[known], tools, second)
    true_s = pause_s[second]
    return {
        "num_pauses": len(second),
        "online": _losses(true_s, said[:, second]),
        "static": _losses(true_s, static),
    }


def _timeline(
    trace: Trace,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    # Begin and end of each pause, and the turn it follows.
    pause_s = np.nan_to_num(trace.pause_s)
    busy_s = TOKEN_S * trace.output_tokens
    until_s = np.cumsum(pause_s + busy_s)
    first = trace.first_turn[:-1]
    before_s = (until_s - pause_s - busy_s)[first]
    lengths_s = np.append(before_s, until_s[-1])[1:] - before_s
    arrival_s = trace.arrival_s
    if np.isnan(arrival_s).any():
        arrival_s = np.arange(trace.num_sessions) * lengths_s.mean() / 8
    end_s = until_s + np.repeat(arrival_s - before_s, np.diff(trace.first_turn))
    called = np.flatnonzero(np.isfinite(trace.pause_s))
    return (end_s - pause_s)[called], end_s[called], called


def _static(
    trace: Trace, known: NDArray[np.int64], tools: list[str], judged: NDArray[np.int64]
) -> NDArray[np.float64]:
    # Of judged pauses, by the table of the known ones.
    pause_s = np.full(trace.num_turns, np.nan)
    pause_s[known] = trace.pause_s[known]
    seen = Trace(
        trace.name, trace.tools, trace.first_turn, trace.arrival_s, trace.input_tokens,
        trace.shared_prefix_tokens, trace.output_tokens, trace.tool, pause_s, trace.session_ids,
        trace.roots,
    )  # fmt: skip
    table = fit_pause_table(seen)
    rows = [table.tools.index(tools[i]) for i in judged]
    columns = [round(100 * level) for level in LEVELS]
    return table.quantiles_s[rows][:, columns].T


def _losses(true_s: NDArray[np.float64], said_s: NDArray[np.float64]) -> dict[str, Any]:
    log_true, log_said = (np.log(np.maximum(each, _LEAST_S)) for each in (true_s, said_s))
    names = [f"{level:g}" for level in LEVELS]
    pinball_s = [_pinball(true_s, said, level) for said, level in zip(said_s, LEVELS, strict=True)]
    pinball_log = [
        _pinball(log_true, said, level) for said, level in zip(log_said, LEVELS, strict=True)
    ]
    covered = [float((true_s <= said).mean()) for said in said_s]
    return {
        "pinball_s": dict(zip(names, pinball_s, strict=True)),
        "pinball_log": dict(zip(names, pinball_log, strict=True)),
        "coverage": dict(zip(names, covered, strict=True)),
    }


def _pinball(true: NDArray[np.float64], said: NDArray[np.float64], level: float) -> float:
    over = true - said
    loss = float(np.maximum(level * over, (level - 1.0) * over).mean())
    return loss if math.isfinite(loss) else math.nan
