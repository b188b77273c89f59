"""The small network, compiled: a bundle inside the engine's own loop."""

from __future__ import annotations

import math

from rlkv_engine.jit import jit


@jit
def _tanh_layer(weight, bias, x, out) -> None:  # type: ignore[no-untyped-def]
    for i in range(weight.shape[0]):
        total = bias[i]
        for j in range(weight.shape[1]):
            total += weight[i, j] * x[j]
        out[i] = math.tanh(total)


@jit
def mlp_verb(policy, swap_legal: bool) -> int:  # type: ignore[no-untyped-def]
    """Greedy verb of a ``loop.Policy`` network for ``policy.observation``."""
    x = policy.observation
    _tanh_layer(policy.weight_1, policy.bias_1, x, policy.hidden_1)
    _tanh_layer(policy.weight_2, policy.bias_2, policy.hidden_1, policy.hidden_2)
    rule = x.shape[0] - 3  # the last three features are the rule's verb
    best = 0
    best_logit = -1e30
    for verb in range(3):
        logit = policy.bias_3[verb] + policy.prior * x[rule + verb]
        for j in range(policy.weight_3.shape[1]):
            logit += policy.weight_3[verb, j] * policy.hidden_2[j]
        if verb == 1 and not swap_legal:
            continue
        if logit > best_logit:
            best = verb
            best_logit = logit
    return best
