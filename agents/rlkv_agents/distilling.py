"""A learned policy into decision trees: the student asks its teacher along its own path.

DAgger (Ross, Gordon and Bagnell, 2011) with decisions weighted by how much the teacher cares, the
margin between its best and its next best verb (VIPER: Bastani, Pu and Solar-Lezama, 2018): where
either verb will do, a tree need not tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.demonstrations import Demonstrations, Teacher, demonstrate, join
from rlkv_agents.inference import BatchInference, knows
from rlkv_agents.learner import SEED_STRIDE
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.tree_fitting import fit_trees
from rlkv_agents.tune import caution_score, validation_latency_s, validation_traces
from rlkv_engine.state import SWAP
from rlkv_engine.trace import Trace
from rlkv_engine.tree import Trees, no_trees
from rlkv_envs.scenario import Scenario

#: A deeper tree has to be better than a shallower one by so much of the log of the latency.
DEEPER_GAIN = 0.002
#: Demonstrations and the weight of each.
_Lesson = tuple[Demonstrations, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class DistilSettings:
    """How a policy is distilled."""

    depths: tuple[int, ...] = (2, 3, 4)
    #: The first pass watches the teacher on its own path, the others the student on its own.
    num_passes: int = 4
    traces_per_pass: int = 3
    num_per_trace: int = 4000


def num_steps(settings: DistilSettings) -> int:
    """How often ``distil_one`` calls ``on_step``."""
    depths, passes = len(settings.depths), settings.num_passes
    watched = 1 + depths * (passes - 1)
    return watched + 2 + depths * passes  # and validations: of the rule, the teacher, the students


def distil(
    teacher: Teacher,
    seed: int,
    settings: DistilSettings,
    on_step: Callable[[], None] = lambda: None,
) -> dict[int, list[AgentPolicy]]:
    """A policy of trees after each pass, by depth; with the teacher's name, rule and range.

    A decision point at which the teacher does not depart from its rule gets no tree: the rule
    answers.
    """
    start = replace(teacher.policy, weights=None, prior=0.0, trees=no_trees())

    def watch(student: AgentPolicy, number: int) -> _Lesson:
        demos = demonstrate(
            teacher,
            student,
            _traces(teacher.scenario, seed, number, settings),
            obey_teacher=number == 0,
            num_per_trace=settings.num_per_trace,
            rng=np.random.default_rng([seed, 2, number, 0]),
        )
        on_step()
        return demos, importance(teacher.policy, demos)

    on_own_path = watch(start, 0)
    students = {}
    for depth in settings.depths:
        lessons = [on_own_path]
        passes = [replace(start, trees=_fit(lessons, depth))]
        for number in range(1, settings.num_passes):
            lessons.append(watch(passes[-1], number))
            passes.append(replace(start, trees=_fit(lessons, depth)))
        students[depth] = passes
    return students


def _fit(lessons: Sequence[_Lesson], depth: int) -> Trees:
    demos, weights = zip(*lessons, strict=True)
    return fit_trees(join(demos), np.concatenate(weights), depth)


@dataclass(frozen=True, slots=True, eq=False)
class Distilled:
    """Trees of each depth, from the pass that validated best, and the best depth."""

    students: dict[int, AgentPolicy]
    depth: int
    #: By ``teacher``, ``depth 2``, ...: geometric mean of the latency over the rule's on validation
    #: traces, and ``caution_score`` against the rule.
    validation: dict[str, dict[str, float]]

    @property
    def policy(self) -> AgentPolicy:
        """The trees of the depth that validated best."""
        return self.students[self.depth]

    @property
    def is_safe(self) -> bool:
        """Are they no worse than the rule on validation traces?"""
        return self.validation[f"depth {self.depth}"]["score"] <= 0.0


def distil_one(
    scenario: Scenario,
    teacher: AgentPolicy,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
    settings: DistilSettings | None = None,
) -> Distilled:
    """Distil a policy for one scenario and choose pass and depth on validation traces.

    The last pass is not always the best: what a student is taught depends on where its own
    mistakes led it, and from pass to pass the latency of a shallow tree may jump by a third.
    ``on_step`` is called ``num_steps`` times.
    """
    settings = settings or DistilSettings()
    traces = validation_traces(scenario)

    def latency_s(policy: AgentPolicy) -> NDArray[np.float64]:
        found = validation_latency_s(scenario, policy, traces)
        on_step()
        return found

    passes = distil(Teacher(scenario, teacher), seed, settings, on_step)
    base_s = latency_s(AgentPolicy("rule", teacher.rule))
    validation = {"teacher": _verdict(latency_s(teacher), base_s)}
    students = {}
    for depth, candidates in passes.items():
        verdicts = [_verdict(latency_s(student), base_s) for student in candidates]
        best = min(range(len(verdicts)), key=lambda i: verdicts[i]["score"])
        students[depth] = candidates[best]
        validation[f"depth {depth}"] = verdicts[best]
    chosen = min(students)
    for depth in sorted(students):
        gain = validation[f"depth {chosen}"]["score"] - validation[f"depth {depth}"]["score"]
        if gain > DEEPER_GAIN:
            chosen = depth
    return Distilled(students, chosen, validation)


def _verdict(latency_s: NDArray[np.float64], base_s: NDArray[np.float64]) -> dict[str, float]:
    return {
        "ratio": float(np.exp(np.log(latency_s / base_s).mean())),
        "score": caution_score(latency_s, base_s),
    }


def importance(teacher: AgentPolicy, demos: Demonstrations) -> NDArray[np.float64]:
    """How much the teacher cares about each demonstration, shape ``[num]``, mean 1.

    0 where the teacher was not trained: there the rule answers, for the trees too.
    """
    weight = np.ones(len(demos.verb))
    if teacher.weights is not None:
        logits = BatchInference(teacher).logits(demos.observation)
        logits[~demos.mask[:, SWAP], SWAP] = -np.inf
        ordered = np.sort(logits, axis=1)
        weight = np.tanh(ordered[:, 2] - ordered[:, 1])
    weight[~knows(teacher, demos.observation)] = 0.0
    return weight / max(float(weight.mean()), 1e-12)


def _traces(scenario: Scenario, seed: int, number: int, settings: DistilSettings) -> list[Trace]:
    # Apart from those that the policy was trained on.
    first = SEED_STRIDE * (seed + 1) + 700_000 + 50 * number
    return [scenario.trace(first + i, "train") for i in range(settings.traces_per_pass)]
