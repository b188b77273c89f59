"""The machines that a policy for any machine learns on: the suite's, and random ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import qmc

from rlkv_engine.profile import load_profile
from rlkv_envs.scenario import KNEES, PRESETS, Scenario, load_scenario
from rlkv_envs.workloads import make_workload

#: Host memory and link of random machines, as factors of their profile's; evenly in the logarithm.
HOST_FACTORS = (0.1, 3.0)
LINK_FACTORS = (0.125, 1.0)
#: Their load, relative to the knee of the machine with its own host memory and link.
LOADS = (0.95, 1.2)
#: Knees whose workloads random machines have, in turn.
WORKLOADS = ("coding", "crossover", "infercept")
#: What is learnt has to be better by so much of the log of the latency: chance alone finds less,
#: and it has to hold on other machines.
WORTH_LEARNING = 0.01


def suite_machines() -> list[Scenario]:
    """The scenarios of the suite that may be trained on."""
    return [load_scenario(name) for name, preset in PRESETS.items() if preset.suite == "trained"]


def random_machines(num_machines: int, seed: int) -> list[Scenario]:
    """Machines between the suite's and beyond them, every workload in turn."""
    each = -(-num_machines // len(WORKLOADS))
    lowest, highest = zip(np.log(HOST_FACTORS), np.log(LINK_FACTORS), LOADS, strict=True)
    # A low-discrepancy sequence for each workload: a few independent draws leave gaps.
    points = [
        qmc.scale(qmc.Halton(3, rng=np.random.default_rng([seed, i])).random(each), lowest, highest)
        for i in range(len(WORKLOADS))
    ]
    machines = []
    for index in range(num_machines):
        number, workload = divmod(index, len(WORKLOADS))
        knee = KNEES[WORKLOADS[workload]]
        log_host, log_link, load = points[workload][number].tolist()
        host, link = math.exp(log_host), math.exp(log_link)
        machines.append(
            Scenario(
                f"random-{seed}-{index}",
                load_profile(f"{knee.profile}+host{host:.3g}+link{link:.3g}"),
                make_workload(knee.workload),
                round(knee.rate_per_s * load, 4),
                knee.num_sessions,
            )
        )
    return machines


def worth_learning(
    machines: Sequence[Scenario], suite: Sequence[Scenario], scores: Mapping[str, float]
) -> list[Scenario]:
    """Those of ``machines`` whose workload gained where it was learnt, on the suite's machines.

    Args:
        machines: to choose from.
        suite: where something was learnt.
        scores: what it was worth there, by name: mean log ratio on validation, below 0: a gain.
    """
    gaining = {each.workload.name for each in suite if scores[each.name] < -WORTH_LEARNING}
    return [machine for machine in machines if machine.workload.name in gaining]
