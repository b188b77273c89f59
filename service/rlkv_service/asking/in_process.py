"""A policy in this process answers rows of facts, as a sidecar would: comparisons and tests."""

from __future__ import annotations

import numpy as np

from rlkv_agents.inference import BatchInference
from rlkv_agents.policy import NUM_VERBS, AgentPolicy
from rlkv_engine.facts import SWAP_IS_LEGAL
from rlkv_engine.observe import NUM_FEATURES, observe_facts
from rlkv_engine.state import SWAP
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.local_rule import expected_remaining_s, mean_pause_s, soft_priority
from rlkv_service.schema import Reason


class InProcessPolicy:
    """Answers with a policy; every fact must be known, as an engine of ours knows it.

    Args:
        policy: a rule, or what was learnt on one; bound to its scenario (``AgentPolicy.on``).
    """

    def __init__(self, policy: AgentPolicy) -> None:
        self._name, self._infer = policy.name, BatchInference(policy)

    def __call__(self, rows: DecisionRows) -> VerdictRows:
        """The policy's verb for each row, leases without an end."""
        num = len(rows)
        observations = np.zeros((num, NUM_FEATURES), np.float32)
        facts = np.ascontiguousarray(rows.facts)
        observe_facts(facts, observations)
        masks = np.ones((num, NUM_VERBS), np.bool_)
        masks[:, SWAP] = facts[:, SWAP_IS_LEGAL] == 1.0
        answers = self._infer(observations, masks)
        remaining_s = expected_remaining_s(facts).astype(np.float32)
        return VerdictRows(
            policy_version=self._name,
            verb=answers.verb.astype(np.int8),
            lease_s=np.full(num, np.inf, np.float32),
            soft_priority=soft_priority(remaining_s, mean_pause_s(facts)),
            expected_return_p50_s=remaining_s,
            expected_return_p90_s=2.0 * remaining_s,
            confidence=answers.probability.max(axis=1).astype(np.float32),
            fallback_used=answers.by_rule.astype(np.int8),
            reason=np.where(answers.by_rule, Reason.UNSURE, Reason.POLICY).astype(np.int8),
        )
