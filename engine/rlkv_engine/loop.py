"""The compiled main loop: run to the next decision, answer it, or let a policy answer them all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.admission import ASK, NO_SLOT, admit, grow
from rlkv_engine.events import process_events
from rlkv_engine.iteration import iterate
from rlkv_engine.jit import jit_inline, jit_run
from rlkv_engine.memory import swap_is_legal
from rlkv_engine.mlp import mlp_verb, tree_verb
from rlkv_engine.observe import NUM_FEATURES, observe
from rlkv_engine.offers import answer, ask_call
from rlkv_engine.rule import EAGER, rule_verb
from rlkv_engine.sprint import can_sprint, sprint
from rlkv_engine.state import (
    ASK_CALL,
    CALL,
    DECISION,
    DECISION_POINT,
    DECISION_SLOT,
    ITERATION,
    NOW,
    NUM_CALLS,
    OFFER_KIND,
    REVIEWED,
    RULE,
    SWAP,
    SWAP_NOW,
    State,
    engine_view,
)
from rlkv_engine.tree import NO_TREE, Trees, no_trees
from rlkv_engine.waste import review

# Why the loop returned.
DECIDE, DONE, FULL, TIME_UP = 0, 1, 2, 3
#: Nothing stands between ``plan_memory`` and the batch.
BATCH = 4


class Policy(NamedTuple):
    """What answers decisions inside the compiled loop: the rule, or what was learnt on top of it.

    A tree where the decision point has one; else a tanh network ``[features] -> hidden -> hidden ->
    3`` whose logits get ``prior`` added to the rule's verb; without a network (``weight_1`` of
    shape ``[0, 0]``) the rule's verb is taken.
    """

    weight_1: NDArray[np.float64]  # [num_features, hidden]: inputs first, see mlp.py
    bias_1: NDArray[np.float64]  # [hidden]
    weight_2: NDArray[np.float64]  # [hidden, hidden]
    bias_2: NDArray[np.float64]  # [hidden]
    weight_3: NDArray[np.float64]  # [hidden, 3]
    bias_3: NDArray[np.float64]  # [3]
    prior: float
    #: The rule's verb is only left for one at least this likely.
    min_confidence: float
    trees: Trees
    #: Where an observation lies outside these, the rule answers: nothing was learnt there.
    low: NDArray[np.float64]  # [num_features]
    high: NDArray[np.float64]  # [num_features]
    hidden_1: NDArray[np.float64]  # [hidden], scratch
    logits: NDArray[np.float64]  # [3], scratch
    hidden_2: NDArray[np.float64]  # [hidden], scratch
    observation: NDArray[np.float32]  # [num_features], scratch


@jit_inline
def plan_memory(st: State, until_s: float) -> int:
    """Sections 2.1 to 2.5: everything before the batch. BATCH, or why it stops before."""
    while True:
        if st.n[DECISION] == 1:
            return DECIDE
        if st.n[NUM_CALLS] > 0 and st.n[OFFER_KIND] == 0:
            ask_call(st)
            if st.n[ASK_CALL] == 1:
                return DECIDE
            answer(st, rule_verb(st, CALL, st.n[DECISION_SLOT]), math.inf)
            continue
        if st.f[NOW] >= until_s and st.n[OFFER_KIND] == 0:
            return TIME_UP
        process_events(st)
        if st.f[RULE + EAGER] == 1 and st.n[REVIEWED] != st.n[ITERATION]:
            st.n[REVIEWED] = st.n[ITERATION]
            review(st)
        if grow(st) == ASK:
            return DECIDE
        state = admit(st)
        if state == ASK:
            return DECIDE
        if state == NO_SLOT:
            return FULL
        return BATCH


@jit_inline
def run_to_decision(st: State, until_s: float) -> int:
    """Advance one engine (a view) to its next decision, its end, or ``until_s``."""
    while True:
        state = plan_memory(st, until_s)
        if state != BATCH:
            return state
        if can_sprint(st):
            before = st.n[ITERATION]
            sprint(st, until_s)
            if st.n[ITERATION] > before:
                continue
        if not iterate(st):
            return DONE


@jit_inline
def policy_verb(st: State, policy: Policy) -> int:
    """The policy's verb for the open decision."""
    point = st.n[DECISION_POINT]
    rule = rule_verb(st, point, st.n[DECISION_SLOT])
    has_tree = policy.trees.root[point] != NO_TREE
    if policy.weight_1.shape[0] == 0 and not has_tree:
        return rule
    observe(st, policy.observation)
    # What was learnt has one SWAP; on a rule that swaps at once (and discards where the host has
    # no room) it means the rule's.
    swap_legal = rule == SWAP_NOW or swap_is_legal(st)
    if has_tree:
        verb = tree_verb(policy, point, swap_legal)
    else:
        verb = mlp_verb(policy, swap_legal)
    return SWAP_NOW if rule == SWAP_NOW and verb == SWAP else verb


@jit_run
def run_policy(stack: State, e: int, policy: Policy, until_s: float) -> int:
    """Like ``run_to_decision`` for engine ``e`` of a stack; ``policy`` answers every decision."""
    st = engine_view(stack, e)
    while True:
        state = run_to_decision(st, until_s)
        if state != DECIDE:
            return state
        answer(st, policy_verb(st, policy), math.inf)


def make_policy(
    weights: Sequence[NDArray[np.float64]] | None = None,
    prior: float = 0.0,
    trained_range: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    trees: Trees | None = None,
    min_confidence: float = 0.0,
) -> Policy:
    """A policy from ``weight_1, bias_1, ... bias_3``; None answers with the engine's own rule.

    ``trained_range`` is the lowest and highest value of each feature that network and trees may
    answer for, each of shape ``[num_features]``; None answers everywhere. ``trees`` go before the
    network at the decision points that have one. Where the network leaves the rule with less than
    ``min_confidence`` the rule answers too.
    """
    low, high = trained_range or (np.full(NUM_FEATURES, -np.inf), np.full(NUM_FEATURES, np.inf))
    if weights is None:
        weights = [np.zeros(shape) for shape in ((0, 0), 0, (0, 0), 0, (0, 0), 0)]
    weight_1, bias_1, weight_2, bias_2, weight_3, bias_3 = (
        np.ascontiguousarray(array, np.float64) for array in weights
    )
    return Policy(
        np.ascontiguousarray(weight_1.T),
        bias_1,
        np.ascontiguousarray(weight_2.T),
        bias_2,
        np.ascontiguousarray(weight_3.T),
        bias_3,
        float(prior),
        float(min_confidence),
        no_trees() if trees is None else trees,
        np.ascontiguousarray(low, np.float64),
        np.ascontiguousarray(high, np.float64),
        np.zeros(len(bias_1)),
        np.zeros(3),
        np.zeros(len(bias_2)),
        np.zeros(NUM_FEATURES, np.float32),
    )


#: Answers with the engine's own rule.
RULE_POLICY = make_policy()
