"""How sure a policy must be to leave the rule: chosen on machines that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.policy import AgentPolicy
from rlkv_agents.train import OnProgress, counter
from rlkv_agents.tune import mean_ratio, validation_latency_s, validation_traces
from rlkv_envs.scenario import Scenario

#: Least confidences that are tried; at 1 the rule always answers.
LEVELS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
NUM_TRACES = 16
#: What a hundredth at the worst machine is worth, in hundredths of the mean over all of them.
WORST_WEIGHT = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Abstention:
    """What each level of confidence gives on machines held out from training."""

    min_confidence: float
    machines: Sequence[str]
    levels: Sequence[float]
    #: Latency over that of the rule tuned for the machine, [num_levels, num_machines].
    ratio: NDArray[np.float64]


def choose_confidence(
    policy: AgentPolicy,
    machines: Sequence[Scenario],
    rules: Mapping[str, AgentPolicy],
    on_progress: OnProgress = lambda stage, done, total: None,
) -> Abstention:
    """The level with the best mean log ratio plus half of the worst machine's.

    Args:
        policy: a network with a rule or advice under it.
        machines: machines it was not trained on; without any, it answers everywhere.
        rules: the rule tuned for each of them, by name.
        on_progress: hears of the stage ``confidence``.
    """
    count = counter(on_progress, "confidence", len(machines) * len(LEVELS))
    ratio = np.zeros((len(LEVELS), len(machines)))
    for column, machine in enumerate(machines):
        traces = validation_traces(machine, NUM_TRACES)
        base = validation_latency_s(machine, rules[machine.name], traces)
        for row, level in enumerate(LEVELS):
            bold = replace(policy, min_confidence=level)
            ratio[row, column] = mean_ratio(validation_latency_s(machine, bold, traces), base)
            count()
    chosen = LEVELS[0]
    if machines:
        logs = np.log(ratio)
        chosen = LEVELS[int(np.argmin(logs.mean(axis=1) + WORST_WEIGHT * logs.max(axis=1)))]
    return Abstention(chosen, [machine.name for machine in machines], LEVELS, ratio)
