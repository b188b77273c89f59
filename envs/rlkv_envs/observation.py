"""The spaces of the environments, from the engine's own description of its features."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from rlkv_engine.observe import FEATURES
from rlkv_envs.stepping import NUM_VERBS


def observation_space() -> spaces.Box:
    """One float32 for each of ``observe.FEATURES``, with its range."""
    low = np.array([feature.low for feature in FEATURES], np.float32)
    high = np.array([feature.high for feature in FEATURES], np.float32)
    return spaces.Box(low, high, dtype=np.float32)


def action_space() -> spaces.Discrete:
    """PRESERVE, SWAP, DISCARD."""
    return spaces.Discrete(NUM_VERBS)
