"""What is known of a pause at the moment it begins: the call, and the session's own past.

A session's past is a few running numbers; each pause that has ended is added to them. One compiled
function serves whole traces and a live engine that learns of one turn at a time, so that both mean
the same by a feature. Times are natural logarithms of seconds.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.jit import jit
from rlkv_engine.state import INPUT_TOKENS, OUTPUT_TOKENS, SHARED_PREFIX, TOOL

#: Features in the order of the arrays, each with its meaning.
PAUSE_FEATURES = (
    ("tool_mean", "mean log pause of the tool, shrunk towards that of all tools"),
    ("tool_spread", "standard deviation of log pauses of the tool, likewise"),
    ("human", "1 if a person answers, 0 for a program"),
    ("turn", "turns of the session before this one"),
    ("last", "log of the session's last pause; tool_mean where there is none"),
    ("before_last", "of the one before it, likewise"),
    ("moving_average", "of the session's log pauses, recent ones more; likewise"),
    ("tool_moving_average", "of those on this tool; likewise"),
    ("tool_pauses", "how many of them there were"),
    ("session_effect", "mean of log pause less its tool_mean over the session, shrunk towards 0"),
    ("last_surprise", "log of the last pause less its tool_mean; 0 where there is none"),
    ("longest", "log of the longest pause so far; tool_mean where there is none"),
    ("last_tool_mean", "tool_mean of the last pause's tool, or of this one"),
    ("output_tokens", "log of the tokens of this turn"),
    ("context_tokens", "log of prompt and output of this turn"),
    ("new_tokens", "log(1 + tokens of the prompt that the turn before did not have)"),
)
NUM_PAUSE_FEATURES = len(PAUSE_FEATURES)

#: Weight of the newest pause in a moving average.
NEWEST = 0.3
#: Pauses worth of doubt in the session's effect.
DOUBT = 3.0

# Columns of the statistics of a tool.
TOOL_MEAN, TOOL_SPREAD, TOOL_HUMAN, NUM_TOOL_STATISTICS = range(4)

# A session's past: numbers over all its pauses, then three for each tool.
_COUNT, _LAST, _BEFORE_LAST, _SUM, _WEIGHT, _EFFECT, _LONGEST, _LAST_TOOL = range(8)
_PAST_SIZE = 8
_TOOL_SUM, _TOOL_WEIGHT, _TOOL_COUNT = range(3)


def empty_past(num_tools: int) -> NDArray[np.float64]:
    """The past of a session that has not paused yet; ``num_tools`` rows of statistics."""
    return np.zeros(_PAST_SIZE + 3 * num_tools)


@jit
def note_pause(
    past: NDArray[np.float64], tools: NDArray[np.float64], tool: int, log_s: float
) -> None:
    """Add a pause that has ended to a session's past."""
    past[_BEFORE_LAST] = past[_LAST] if past[_COUNT] > 0 else log_s
    past[_LONGEST] = max(past[_LONGEST], log_s) if past[_COUNT] > 0 else log_s
    past[_LAST] = log_s
    past[_LAST_TOOL] = tool
    past[_COUNT] += 1.0
    past[_SUM] = past[_SUM] * (1.0 - NEWEST) + log_s
    past[_WEIGHT] = past[_WEIGHT] * (1.0 - NEWEST) + 1.0
    past[_EFFECT] += log_s - tools[tool, TOOL_MEAN]
    own = _PAST_SIZE + 3 * tool
    past[own + _TOOL_SUM] = past[own + _TOOL_SUM] * (1.0 - NEWEST) + log_s
    past[own + _TOOL_WEIGHT] = past[own + _TOOL_WEIGHT] * (1.0 - NEWEST) + 1.0
    past[own + _TOOL_COUNT] += 1.0


@jit
def pause_features(
    past: NDArray[np.float64],
    tools: NDArray[np.float64],
    turns: NDArray[np.int64],
    turn: int,
    tool: int,
    out: NDArray[np.float64],
) -> None:
    """Features of the pause on ``tool`` that begins when ``turn`` has ended.

    Args:
        past: of the session (``empty_past``, ``note_pause``).
        tools: statistics by tool, shape ``[num_tools, NUM_TOOL_STATISTICS]``.
        turns: shape ``[4, num_turns]``, as ``State.turns``; column ``turn`` alone is read.
        turn: column of ``turns``.
        tool: row of ``tools``.
        out: shape ``[NUM_PAUSE_FEATURES]``.
    """
    mean = tools[tool, TOOL_MEAN]
    count = past[_COUNT]
    own = _PAST_SIZE + 3 * tool
    out[0] = mean
    out[1] = tools[tool, TOOL_SPREAD]
    out[2] = tools[tool, TOOL_HUMAN]
    out[3] = count
    if count > 0:
        last_mean = tools[int(past[_LAST_TOOL]), TOOL_MEAN]
        out[4] = past[_LAST]
        out[5] = past[_BEFORE_LAST] if count > 1 else mean
        out[6] = past[_SUM] / past[_WEIGHT]
        out[10] = past[_LAST] - last_mean
        out[11] = past[_LONGEST]
        out[12] = last_mean
    else:
        out[4] = mean
        out[5] = mean
        out[6] = mean
        out[10] = 0.0
        out[11] = mean
        out[12] = mean
    tool_weight = past[own + _TOOL_WEIGHT]
    out[7] = past[own + _TOOL_SUM] / tool_weight if tool_weight > 0 else mean
    out[8] = past[own + _TOOL_COUNT]
    out[9] = past[_EFFECT] / (count + DOUBT)
    context = turns[INPUT_TOKENS, turn] + turns[OUTPUT_TOKENS, turn]
    out[13] = math.log(turns[OUTPUT_TOKENS, turn])
    out[14] = math.log(context)
    out[15] = math.log(1.0 + turns[INPUT_TOKENS, turn] - turns[SHARED_PREFIX, turn])


@jit
def trace_features(
    first_turn: NDArray[np.int64],
    turns: NDArray[np.int64],
    pause_s: NDArray[np.float64],
    row_of_tool: NDArray[np.int64],
    tools: NDArray[np.float64],
    floor_s: float,
    past: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """``pause_features`` of every turn of a trace; ``out`` has a row a turn, 0 for last turns.

    ``row_of_tool`` is the row of ``tools`` of each tool of the trace, ``past`` scratch.
    """
    for session in range(first_turn.shape[0] - 1):
        past[:] = 0.0
        for turn in range(first_turn[session], first_turn[session + 1] - 1):
            tool = row_of_tool[turns[TOOL, turn]]
            pause_features(past, tools, turns, turn, tool, out[turn])
            note_pause(past, tools, tool, math.log(max(pause_s[turn], floor_s)))
