"""What a scenario would cost without competition for memory: marks to read a ceiling by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rlkv_agents.contestants import REFERENCE
from rlkv_agents.load_sweep import EMPTY_FACTOR
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import make_rule
from rlkv_agents.suite import Evaluation, Setting

#: The device pool of the mark without a limit, in pools of the scenario's machine.
UNLIMITED_FACTOR = 20
UNLIMITED, EMPTY = "unlimited memory", "empty engine"


def marks(
    settings: Sequence[Setting], tuned: Mapping[tuple[str, str], Mapping[str, float]]
) -> list[Evaluation]:
    """The reference rule at the same load with ample device memory, and without load."""
    evaluations = []
    for setting in settings:
        scenario = setting.scenario
        policy = AgentPolicy(REFERENCE, make_rule(REFERENCE, tuned[scenario.name, REFERENCE]))
        profile = replace(
            scenario.profile,
            num_device_blocks=UNLIMITED_FACTOR * scenario.profile.num_device_blocks,
        )
        variants = {
            UNLIMITED: replace(scenario, profile=profile),
            EMPTY: scenario.at_rate(scenario.rate_per_s * EMPTY_FACTOR),
        }
        for name, variant in variants.items():
            key = (scenario.name, name, setting.arrivals)
            evaluations.append(Evaluation(key, replace(setting, scenario=variant), policy))
    return evaluations
