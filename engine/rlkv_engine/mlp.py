"""The small network, compiled: a bundle inside the engine's own loop."""

from __future__ import annotations

import math

import numpy as np

from rlkv_engine.jit import jit


@jit
def _layer(weight, bias, x):  # type: ignore[no-untyped-def]
    out = np.empty(weight.shape[0])
    for i in range(weight.shape[0]):
        total = bias[i]
        for j in range(weight.shape[1]):
            total += weight[i, j] * x[j]
        out[i] = math.tanh(total)
    return out


@jit
def mlp_verb(policy, observation, swap_legal: bool) -> int:  # type: ignore[no-untyped-def]
    """Greedy verb of a ``loop.Policy`` network for one observation; ties go to the rule."""
    hidden = _layer(policy.weight_1, policy.bias_1, observation)
    hidden = _layer(policy.weight_2, policy.bias_2, hidden)
    first = observation.shape[0] - 3  # the last three features are the rule's verb
    best = 0
    best_logit = -1e30
    for verb in range(3):
        logit = policy.bias_3[verb] + policy.prior * observation[first + verb]
        for j in range(hidden.shape[0]):
            logit += policy.weight_3[verb, j] * hidden[j]
        if verb == 1 and not swap_legal:
            continue
        if logit > best_logit:
            best = verb
            best_logit = logit
    return best
