"""What a predictor knows of a pause at the moment it begins: the call, and the session's own past.

One compiled function serves the fit and the scheduler, so that both mean the same by a feature. It
reads the turn that has just ended and the pauses before it; never the pause itself, and nothing of
the turn that follows. Times are natural logarithms of seconds.
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

#: Earlier turns that count; what lies further back weighs nothing in the moving averages.
WINDOW = 32
#: Weight of the newest pause in a moving average.
NEWEST = 0.3
#: Pauses worth of doubt in the session's effect.
DOUBT = 3.0

# Columns of the statistics of a tool.
TOOL_MEAN, TOOL_SPREAD, TOOL_HUMAN, NUM_TOOL_STATISTICS = range(4)


@jit
def pause_features(
    turns: NDArray[np.int64],
    pause_s: NDArray[np.float64],
    tools: NDArray[np.float64],
    floor_s: float,
    first_turn: int,
    turn: int,
    out: NDArray[np.float64],
) -> None:
    """Features of the pause after ``turn`` of the session that begins at ``first_turn``.

    Args:
        turns: shape ``[4, num_turns]``, as ``State.turns``.
        pause_s: shape ``[num_turns]``; entries before ``turn`` alone are read.
        tools: statistics by ``turns[TOOL]``, shape ``[num_rows, NUM_TOOL_STATISTICS or more]``.
        floor_s: shorter pauses count as so long.
        first_turn: index into ``turns``.
        turn: index into ``turns``, at least ``first_turn``.
        out: shape ``[NUM_PAUSE_FEATURES]``.
    """
    tool = turns[TOOL, turn]
    mean = tools[tool, TOOL_MEAN]
    last, before_last, longest, surprise, last_mean = mean, mean, mean, 0.0, mean
    average, average_weight, effect, count = 0.0, 0.0, 0.0, 0
    tool_average, tool_weight, tool_count = 0.0, 0.0, 0
    weight, weight_of_tool = 1.0, 1.0
    for k in range(turn - 1, max(first_turn, turn - WINDOW) - 1, -1):
        log_s = math.log(max(pause_s[k], floor_s))
        of = turns[TOOL, k]
        if count == 0:
            last, longest = log_s, log_s
            last_mean = tools[of, TOOL_MEAN]
            surprise = log_s - last_mean
        elif count == 1:
            before_last = log_s
        count += 1
        longest = max(longest, log_s)
        effect += log_s - tools[of, TOOL_MEAN]
        average += weight * log_s
        average_weight += weight
        weight *= 1.0 - NEWEST
        if of == tool:
            tool_count += 1
            tool_average += weight_of_tool * log_s
            tool_weight += weight_of_tool
            weight_of_tool *= 1.0 - NEWEST
    context = turns[INPUT_TOKENS, turn] + turns[OUTPUT_TOKENS, turn]
    out[0] = mean
    out[1] = tools[tool, TOOL_SPREAD]
    out[2] = tools[tool, TOOL_HUMAN]
    out[3] = turn - first_turn
    out[4] = last
    out[5] = before_last
    out[6] = average / average_weight if count > 0 else mean
    out[7] = tool_average / tool_weight if tool_count > 0 else mean
    out[8] = tool_count
    out[9] = effect / (count + DOUBT)
    out[10] = surprise
    out[11] = longest
    out[12] = last_mean
    out[13] = math.log(turns[OUTPUT_TOKENS, turn])
    out[14] = math.log(context)
    out[15] = math.log(1.0 + turns[INPUT_TOKENS, turn] - turns[SHARED_PREFIX, turn])


@jit
def feature_matrix(
    turns: NDArray[np.int64],
    pause_s: NDArray[np.float64],
    tools: NDArray[np.float64],
    floor_s: float,
    first_turn: NDArray[np.int64],
    turn: NDArray[np.int64],
    out: NDArray[np.float64],
) -> None:
    """``pause_features`` of many pauses: ``turn`` and ``first_turn`` of each, ``out`` by row."""
    for i in range(turn.shape[0]):
        pause_features(turns, pause_s, tools, floor_s, first_turn[i], turn[i], out[i])
