"""Sessions whose pauses repeat themselves, so that there is something to learn of them."""

from __future__ import annotations

import numpy as np

from rlkv_engine.trace import Trace
from rlkv_envs.workloads.session_arrays import make_bodies, turn_index

TOOLS = ("search", "compile", "human")
#: Median pause of each tool, seconds.
MEDIANS_S = (0.5, 4.0, 60.0)


def paused_sessions(num_sessions: int = 300, seed: int = 0) -> Trace:
    """Log pause: that of the tool, plus the session's own share, plus noise."""
    rng = np.random.default_rng(seed)
    first_turn, position = turn_index(rng.integers(2, 12, num_sessions))
    session = np.repeat(rng.standard_normal(num_sessions), np.diff(first_turn))
    tool = rng.integers(len(TOOLS), size=first_turn[-1])
    noise = rng.standard_normal(first_turn[-1])
    output_tokens = rng.integers(5, 300, first_turn[-1])
    input_tokens = 200 + 300 * position
    return make_bodies(
        "paused",
        TOOLS,
        f"paused-{seed}",
        first_turn,
        input_tokens=input_tokens,
        shared_prefix_tokens=np.where(position > 0, input_tokens - 300, 0),
        output_tokens=output_tokens,
        tool=tool,
        pause_s=np.array(MEDIANS_S)[tool] * np.exp(session + 0.5 * noise),
    )
