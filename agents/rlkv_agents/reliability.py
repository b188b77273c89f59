"""Is a policy right where it is sure? Departures from the rule, tried against it, by confidence."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.evaluate import bootstrap_interval
from rlkv_agents.forking import fork_rollouts
from rlkv_agents.inference import BatchInference, rule_verbs
from rlkv_agents.policy import AgentPolicy
from rlkv_envs.scenario import Scenario

#: Edges of the bins of confidence.
EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
NUM_TRACES, FORKS_PER_TRACE = 4, 300
HORIZON_PAUSES = 4.0
#: Factor on the logits of the path: it is then the greedy policy's, but for ties.
_SHARPEN = 1e3


@dataclass(frozen=True, slots=True, eq=False)
class Departures:
    """Decisions at which the network leaves the rule; the first axis is the decision."""

    confidence: NDArray[np.float64]  # [num], probability of the verb it takes
    #: What the verb saves against the rule's, the greedy policy following both, as a share of the
    #: mean cost of the machine over the same time; [num].
    advantage: NDArray[np.float64]
    num_decisions: int  #: of all that were tried, departures or not


def departures(scenario: Scenario, policy: AgentPolicy, seed: int) -> Departures:
    """Forked decisions of a network on test traces, those where it would leave the rule.

    Both verbs are tried from the same state under the same future. What ``min_confidence`` and the
    trained range hold back is tried too: it is what they are judged by.
    """
    if policy.weights is None:
        return Departures(np.zeros(0), np.zeros(0), 0)
    bold = replace(policy.on(scenario), min_confidence=0.0)
    *inner, weight_3, bias_3 = policy.weights
    sharp = replace(
        bold,
        weights=[*inner, weight_3 * _SHARPEN, bias_3 * _SHARPEN],
        prior=bold.prior * _SHARPEN,
    )
    forks, _ = fork_rollouts(
        scenario,
        sharp,
        [scenario.trace(i, "test") for i in range(NUM_TRACES)],
        forks_per_trace=FORKS_PER_TRACE,
        horizon_s=HORIZON_PAUSES * scenario.table.mean_pause_s,
        rng=np.random.default_rng(seed),
    )
    answers = BatchInference(replace(bold, trained_range=None))(forks.observation, forks.mask)
    rule = rule_verbs(forks.observation)
    rows = np.arange(len(rule))
    saved = forks.cost[rows, rule] - forks.cost[rows, answers.verb]
    departs = answers.verb != rule
    mean_cost = float(forks.cost[rows, rule].mean()) if len(rule) else 1.0
    return Departures(
        answers.probability.max(axis=1)[departs], saved[departs] / mean_cost, len(rule)
    )


def reliability(found: Sequence[Departures]) -> list[dict[str, Any]]:
    """A row for each bin of confidence that has departures, all machines together.

    ``low, high, num``, ``better`` and ``worse`` (shares of departures that cost less and more than
    the rule's verb) and ``advantage`` with its 95 % interval ``ci95``.
    """
    confidence = np.concatenate([each.confidence for each in found])
    advantage = np.concatenate([each.advantage for each in found])
    rows = []
    for low, high in itertools.pairwise(EDGES):
        within = advantage[(confidence > low) & (confidence <= high)]
        if len(within):
            rows.append(
                {
                    "low": low,
                    "high": high,
                    "num": len(within),
                    "better": float((within > 1e-9).mean()),
                    "worse": float((within < -1e-9).mean()),
                    "advantage": float(within.mean()),
                    "ci95": list(bootstrap_interval(within)),
                }
            )
    return rows
