"""Linear scores of the verbs in the form of a network, so that they run wherever bundles do.

For each requester of a REVISIT every verb has a linear function of the observation. The network
that is equal to it has two tanh layers that are used where they are straight, and one switch for
each requester that is used where tanh is flat.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.policy import NUM_VERBS
from rlkv_engine.observe import FEATURES

#: The features that are 1 where a requester asks. At a CALL all are 0, and the rule answers.
REQUESTERS = ("point_new", "point_resume", "point_grow")
_NAMES = [feature.name for feature in FEATURES]
#: What scores are functions of. The rule's verb, one-hot, stands in for a constant.
SCORED = [i for i, name in enumerate(_NAMES) if not name.startswith("point_")]
#: Requesters, verbs, coefficients.
SCORER_SHAPE = (len(REQUESTERS), NUM_VERBS, len(SCORED))
#: Scores are divided by this inside of tanh: z - tanh(z) is z**3 / 3 there. A power of two, so that
#: float32 bundles keep every digit.
_SCALE = 1024.0
#: Far enough for tanh to be -1 to the last digit.
_OFF = 64.0


def as_network(scorer: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    """``AgentPolicy.weights`` whose logits are the scores, shape ``SCORER_SHAPE``.

    A score of 10 is off by less than 0.001, one of 1 by less than a millionth.
    """
    hidden = len(REQUESTERS) * NUM_VERBS
    weight_1, bias_1 = np.zeros((hidden, len(FEATURES))), np.full(hidden, -_OFF)
    weight_2, bias_2 = np.zeros((hidden, hidden)), np.zeros(hidden)
    weight_3 = np.zeros((NUM_VERBS, hidden))
    weight_1[:, SCORED] = scorer.reshape(hidden, len(SCORED)) / _SCALE
    for i, requester in enumerate(REQUESTERS):
        rows = slice(i * NUM_VERBS, (i + 1) * NUM_VERBS)
        weight_1[rows, _NAMES.index(requester)] = _OFF
        weight_2[:NUM_VERBS, rows] = np.eye(NUM_VERBS)
    bias_2[:NUM_VERBS] = len(REQUESTERS) - 1.0  # against the -1 of everybody who does not ask
    weight_3[:, :NUM_VERBS] = _SCALE * np.eye(NUM_VERBS)
    return [weight_1, bias_1, weight_2, bias_2, weight_3, np.zeros(NUM_VERBS)]
