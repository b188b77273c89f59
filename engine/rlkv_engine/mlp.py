"""What was learnt, compiled: the network or trees of a bundle inside the engine's own loop."""

from __future__ import annotations

import math

from rlkv_engine.jit import jit
from rlkv_engine.tree import AS_RULE, tree_answer


@jit
def _add_layer(weight, bias, x, out) -> None:  # type: ignore[no-untyped-def]
    # Input by input, so that the inner loop runs over outputs side by side: a sum over inputs
    # may not be reordered, and so not be vectorised.
    for i in range(out.shape[0]):
        out[i] = bias[i]
    for j in range(weight.shape[0]):
        xj = x[j]
        for i in range(out.shape[0]):
            out[i] += weight[j, i] * xj


@jit
def mlp_logits(policy, out) -> None:  # type: ignore[no-untyped-def]
    """Logits of a ``loop.Policy`` for ``policy.observation``, prior included, shape ``[3]``."""
    x = policy.observation
    _add_layer(policy.weight_1, policy.bias_1, x, policy.hidden_1)
    for i in range(policy.hidden_1.shape[0]):
        policy.hidden_1[i] = math.tanh(policy.hidden_1[i])
    _add_layer(policy.weight_2, policy.bias_2, policy.hidden_1, policy.hidden_2)
    for i in range(policy.hidden_2.shape[0]):
        policy.hidden_2[i] = math.tanh(policy.hidden_2[i])
    _add_layer(policy.weight_3, policy.bias_3, policy.hidden_2, out)
    rule = x.shape[0] - 3  # the last three features are the rule's verb
    for verb in range(3):
        out[verb] += policy.prior * x[rule + verb]


@jit
def knows(policy) -> bool:  # type: ignore[no-untyped-def]
    """Is ``policy.observation`` within what was met in training?"""
    for i in range(policy.low.shape[0]):
        if policy.observation[i] < policy.low[i] or policy.observation[i] > policy.high[i]:
            return False
    return True


@jit
def _as_rule(policy) -> int:  # type: ignore[no-untyped-def]
    rule = policy.observation.shape[0] - 3
    if policy.observation[rule] == 1.0:
        return 0
    return 1 if policy.observation[rule + 1] == 1.0 else 2


@jit
def mlp_verb(policy, swap_legal: bool) -> int:  # type: ignore[no-untyped-def]
    """Greedy verb of a ``loop.Policy`` network for ``policy.observation``.

    The rule's verb where the network was not trained, or is less sure than it has to be.
    """
    rule = _as_rule(policy)
    if not knows(policy):
        return rule
    logits = policy.logits
    mlp_logits(policy, logits)
    best = 0 if logits[0] >= logits[2] else 2
    if swap_legal and logits[1] > logits[best]:
        best = 1
    if best != rule and policy.min_confidence > 0.0:
        total = 0.0
        for verb in range(3):
            if verb != 1 or swap_legal:
                total += math.exp(logits[verb] - logits[best])
        if 1.0 / total <= policy.min_confidence:
            return rule
    return best


@jit
def tree_verb(policy, point: int, swap_legal: bool) -> int:  # type: ignore[no-untyped-def]
    """Verb of the tree of a decision point for ``policy.observation``; the rule's elsewhere."""
    if not knows(policy):
        return _as_rule(policy)
    answer = tree_answer(policy.trees, policy.observation, point, swap_legal)
    return _as_rule(policy) if answer == AS_RULE else answer
