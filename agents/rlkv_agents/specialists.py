"""The best teacher of each machine: its rule, a specialist learnt there, or one carried over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlkv_agents.bundle import load_bundle, save_bundle
from rlkv_agents.house_rule import House
from rlkv_agents.machines import WORTH_LEARNING
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.tune import caution_score, mean_ratio, validation_latency_s, validation_traces
from rlkv_envs.scenario import Scenario

#: Rounds between two validations.
VALIDATE_EVERY = 4
#: Validation traces that choose snapshots and teachers.
NUM_TRACES = 24
#: Validations in a row that bring no better snapshot: learning ends. So it does halfway and later
#: where nothing has passed the rule and the last validation was not the best.
PATIENCE = 3
#: What teachers are called that are no specialists.
ADVISED, TUNED = "advised rule", "tuned rule"


@dataclass(frozen=True, slots=True)
class Training:
    """How a specialist is trained: rounds with each of the two surrogates at most, and a seed."""

    clip_rounds: int
    kl_rounds: int
    seed: int

    @property
    def num_rounds(self) -> int:
        """In all; 0: there is no specialist."""
        return self.clip_rounds + self.kl_rounds


def learn_specialist(
    machine: Scenario, start: AgentPolicy, training: Training, folder: Path
) -> dict[str, Any]:
    """Train on one machine from a rule; the best snapshot becomes a bundle in ``folder``.

    The clipped surrogate starts at the rule that discards, as in ``BothForms``. Returns what a
    cache keeps: the validation score of the snapshot (0: the start itself), the form that it was
    learnt with, and the curve of each form.
    """
    import torch

    from rlkv_agents.forked_learner import ForkedLearner, PenalizedLearner

    torch.set_num_threads(1)
    assert isinstance(start.rule, House)
    traces = validation_traces(machine, NUM_TRACES)
    base = validation_latency_s(machine, start, traces)
    best, best_score, best_form = start, 0.0, "none"
    curves: dict[str, list[float]] = {}
    for recipe, rule, num_rounds in (
        (ForkedLearner, start.rule.discarding(), training.clip_rounds),
        (PenalizedLearner, start.rule, training.kl_rounds),
    ):
        learner = recipe(machine, rule, training.seed)
        curve = curves.setdefault(recipe.form, [])
        for number in range(num_rounds):
            learner.run_round(number)
            if (number + 1) % VALIDATE_EVERY and number + 1 < num_rounds:
                continue
            policy = learner.policy(machine.name)
            latency = validation_latency_s(machine, policy, traces)
            curve.append(mean_ratio(latency, base))
            score = caution_score(latency, base)
            if score < best_score:
                best, best_score, best_form = policy, score, recipe.form
            stale = len(curve) - 1 - int(np.argmin(curve))
            halfway = 2 * (number + 1) >= num_rounds
            if stale >= PATIENCE or (halfway and stale > 0 and min(curve) >= 1.0):
                break
    save_bundle(folder, replace(best, name=machine.name), {"score": best_score, "form": best_form})
    return {"score": best_score, "form": best_form, "curves": curves}


def specialist_on(machine: Scenario, name: str, folder: Path, advised: AgentPolicy) -> AgentPolicy:
    """The specialist that was learnt on the machine ``name``, as it is used on another."""
    policy = load_bundle(folder).policy
    return policy if name == machine.name else carried(policy, advised)


def carried(policy: AgentPolicy, advised: AgentPolicy) -> AgentPolicy:
    """A specialist on another machine: with the rule that is advised there, and wherever it is.

    What it was trained on says nothing here; that it is chosen on validation traces does. One that
    started at a rule that discards departs from such a rule here too.
    """
    assert isinstance(policy.rule, House) and isinstance(advised.rule, House)
    is_bold = policy.rule == policy.rule.discarding()
    rule = advised.rule.discarding() if is_bold else advised.rule
    return replace(policy, rule=rule, trained_range=None)


def choose_teacher(
    machine: Scenario,
    advised: AgentPolicy,
    tuned: House,
    specialists: Sequence[tuple[str, Path]],
) -> dict[str, Any]:
    """The policy with the best validation score against the advised rule.

    Returns its name (``ADVISED`` or the specialist's machine), and the ratio to the tuned rule of
    everybody that was tried.
    """
    traces = validation_traces(machine, NUM_TRACES)
    known = {ADVISED: advised, TUNED: AgentPolicy(TUNED, tuned)}
    for name, folder in specialists:
        known[name] = specialist_on(machine, name, folder, advised)
    latency = {name: validation_latency_s(machine, each, traces) for name, each in known.items()}
    scores = {
        name: caution_score(each, latency[ADVISED])
        for name, each in latency.items()
        if name != TUNED
    }
    chosen = min(scores, key=lambda name: scores[name])
    if scores[chosen] > -WORTH_LEARNING:
        chosen = ADVISED
    ratios = {name: mean_ratio(each, latency[TUNED]) for name, each in latency.items()}
    return {"teacher": chosen, "ratios": ratios}
