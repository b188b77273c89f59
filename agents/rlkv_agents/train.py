"""`rlkv train`: tune the rules, start at the house rule, learn an order of victims, then verbs.

A bundle that was trained elsewhere may help: its orders are tried before another is learnt, and it
is itself a candidate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.bundle import Bundle
from rlkv_agents.checkpoint import (
    PROGRESS_FILE,
    CurvePoint,
    Progress,
    Tuned,
    load_checkpoint,
    save_checkpoint,
)
from rlkv_agents.learner import Learner
from rlkv_agents.order_learning import OrderSettings, learn_order
from rlkv_agents.policy import AgentPolicy, from_tensors, to_tensors
from rlkv_agents.rules import RULES, constants_of, make_rule
from rlkv_agents.run_settings import run_settings
from rlkv_agents.snapshot import validated
from rlkv_agents.tune import (
    NUM_VALIDATION,
    caution_score,
    num_tuning_runs,
    tune,
    validation_latency_s,
    validation_traces,
)
from rlkv_agents.warm_start import check_warm_start, take_over
from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario

#: The rule that every learner starts at, with the constants that tuning chose.
START_RULE = "house"
LEARNED = "learned"
#: The start rule with the order of victims that was learnt for it, and no verbs yet.
ORDERED = "learned-order"
#: Rounds between two validations.
VALIDATE_EVERY = 2
#: Generations of an order unless a run says otherwise; with a bundle's orders to start at half as
#: many do.
DEFAULT_ORDER_ROUNDS = OrderSettings().generations
#: What points of a curve are of: the order while it was learnt, and the bundle of a warm start.
ORDER_FORM, BUNDLE_FORM = "order", "bundle"
#: Of the best snapshot, among its tensors in a checkpoint.
PRIOR, MIN_CONFIDENCE, PREDICTS_PAUSES = "prior", "min_confidence", "predicts_pauses"


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How a policy is trained; two runs with the same config give the same bundle."""

    recipe: str = "forked-ppo"
    seed: int = 0
    num_rounds: int | None = None  #: None: the recipe's own
    #: Generations in which the order of victims is learnt; 0: it stays by expected remainder.
    order_rounds: int | None = None
    #: That are tuned, the start rule among them; None: all, so that they can be compared.
    rules: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Raises ``InputError`` for an unknown recipe or numbers that cannot be."""
        if self.recipe not in RECIPES:
            raise InputError(f"unknown recipe {self.recipe!r}: one of {', '.join(RECIPES)}")
        if self.seed < 0:
            raise InputError(f"seed must be 0 or more, got {self.seed}")
        if self.num_rounds is not None and self.num_rounds < 1:
            raise InputError(f"rounds must be 1 or more, got {self.num_rounds}")
        if self.order_rounds is not None and self.order_rounds < 0:
            raise InputError(f"order rounds must be 0 or more, got {self.order_rounds}")
        if self.rules is not None and START_RULE not in self.rules:
            raise InputError(f"rules must hold {START_RULE}, got {', '.join(self.rules)}")


@dataclass(frozen=True, slots=True, eq=False)
class TrainResult:
    """A trained policy, what it started at, and how it went."""

    policy: AgentPolicy
    start: AgentPolicy
    ordered: AgentPolicy  #: the start with the learned order, where the verbs were learnt from
    progress: Progress
    rules: Sequence[AgentPolicy]  #: every rule with its tuned constants


def _forked() -> type[Learner]:
    from rlkv_agents.both_forms import BothForms

    return BothForms


def _gae() -> type[Learner]:
    from rlkv_agents.gae_learner import GaeLearner

    return GaeLearner


def _evolution() -> type[Learner]:
    from rlkv_agents.es_learner import EvolutionLearner

    return EvolutionLearner


#: Imported on demand: all need torch.
RECIPES: dict[str, Callable[[], type[Learner]]] = {
    "forked-ppo": _forked,
    "ppo": _gae,
    "es": _evolution,
}

#: Called as work goes on: what is being done, units done, units in all.
OnProgress = Callable[[str, int, int], None]


def counter(on_progress: OnProgress, stage: str, total: int) -> Callable[[], None]:
    """Counts calls as units of a stage, which begins at once: its first unit may take a while."""
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        on_progress(stage, done, total)

    on_progress(stage, done, total)
    return count


def tune_all(scenario: Scenario, names: Sequence[str], on_progress: OnProgress) -> dict[str, Tuned]:
    """Tune rules on the validation traces: name -> constants and validation latency in s/token."""
    scenario.check_fits("validation", range(NUM_VALIDATION))
    traces = validation_traces(scenario)
    count = counter(on_progress, "tune", sum(num_tuning_runs(name) for name in names))
    tuned: dict[str, Tuned] = {}
    for name in names:
        choice = tune(scenario, name, traces, count)
        tuned[name] = {
            "constants": dict(choice.constants),
            "validation_s": choice.validation_s,
            "num_candidates": choice.num_candidates,
        }
    return tuned


def tuned_policies(tuned: dict[str, Tuned]) -> list[AgentPolicy]:
    """The rules that ``tune_all`` chose."""
    return [AgentPolicy(name, make_rule(name, entry["constants"])) for name, entry in tuned.items()]


def train(
    scenario: Scenario,
    config: TrainConfig,
    folder: Path,
    *,
    warm_start: Bundle | None = None,
    resume: bool = False,
    on_progress: OnProgress = lambda stage, done, total: None,
    on_checkpoint: Callable[[Progress], None] = lambda progress: None,
) -> TrainResult:
    """Train a policy for a scenario, with a checkpoint in ``folder`` after every validation.

    The house rule is tuned, an order of victims is learnt for it, and from there the verbs. With
    ``warm_start`` the order is learnt from the best of that bundle's, and its policy is a
    candidate.
    Snapshots are judged on paired validation traces by their mean log ratio to the start, plus half
    a standard error; the start itself is a candidate, so what is kept is never worse there.
    ``on_checkpoint`` hears of every checkpoint of this run, the one it resumes from included.

    Raises:
        InputError: nothing to resume, a session that no trace of this machine can hold, or the
            folder cannot be written.
    """
    settings = run_settings(scenario, config.recipe, config.seed, warm_start)
    recipe = RECIPES[config.recipe]()
    if warm_start is not None:
        check_warm_start(warm_start.policy)
    state: dict[str, NDArray[Any]] = {}
    best: dict[str, NDArray[np.float32]] = {}
    if resume:
        progress, state, best = _resumed(folder, settings, config)
        on_checkpoint(progress)
    else:
        progress = Progress(settings, config.num_rounds or recipe.default_rounds)
    num_rounds = progress.num_rounds
    for number in range(progress.rounds_done, num_rounds):
        scenario.check_fits("train", recipe.trace_seeds(config.seed, number))
    if not progress.tuned:
        progress.tuned = tune_all(scenario, config.rules or list(RULES), on_progress)
    rules = tuned_policies(progress.tuned)
    start = next(policy for policy in rules if policy.name == START_RULE)
    traces = validation_traces(scenario)
    base = validation_latency_s(scenario, start, traces)
    if progress.ordered_rule is None:
        progress.curve.append(curve_point(0, 0.0, base, 0.0))
        candidate = _learn_order(
            scenario, start, traces, base, config, warm_start, progress, on_progress
        )
        best = {} if candidate is None else _kept(candidate, progress)
    assert progress.ordered_rule is not None
    ordered = AgentPolicy(ORDERED, make_rule(START_RULE, progress.ordered_rule))
    learner = recipe(scenario, ordered.rule, config.seed)
    num_steps, start_score = _end_of_order(progress)
    if progress.rounds_done:
        _restore(learner, state, folder)
    on_progress("train", progress.rounds_done, num_rounds)
    since = time.process_time()
    for number in range(progress.rounds_done, num_rounds):
        metrics = learner.run_round(number)
        progress.rounds_done = number + 1
        if progress.rounds_done % VALIDATE_EVERY == 0 or progress.rounds_done == num_rounds:
            snapshot = learner.policy(LEARNED)
            policy, latency = validated(scenario, snapshot, ordered.rule, traces, base)
            score = caution_score(latency, base)
            learner.judge(score - start_score)
            progress.cpu_s += time.process_time() - since
            since = time.process_time()
            steps = num_steps + int(metrics["time/total_timesteps"])
            point = curve_point(steps, progress.cpu_s, latency, score)
            progress.curve.append(point | {"form": learner.form})
            if score < progress.best_score:
                progress.best_score, progress.best_round = score, progress.rounds_done
                best = _kept(policy, progress)
            save_checkpoint(folder, progress, learner.tensors(), best)
            on_checkpoint(progress)
        on_progress("train", progress.rounds_done, num_rounds)
    chosen = min(range(len(progress.curve)), key=lambda i: progress.curve[i]["score"])
    for i, point in enumerate(progress.curve):
        point["chosen"] = i == chosen
    policy = replace(ordered, name=LEARNED)
    if best:
        rule = make_rule(START_RULE, progress.best_rule)
        prior, confidence, predicts = (
            float(best[name][0]) for name in (PRIOR, MIN_CONFIDENCE, PREDICTS_PAUSES)
        )
        policy = from_tensors(LEARNED, rule, prior, best, confidence, bool(predicts))
    return TrainResult(policy, start, ordered, progress, rules)


def _kept(policy: AgentPolicy, progress: Progress) -> dict[str, NDArray[np.float32]]:
    # The tensors of the best so far; its rule is noted in `progress`.
    progress.best_rule = constants_of(policy.rule)
    numbers = {
        # A rule becomes a network of zeros, which says the rule's verb for its prior alone.
        PRIOR: 1.0 if policy.weights is None else policy.prior,
        MIN_CONFIDENCE: policy.min_confidence,
        PREDICTS_PAUSES: float(policy.predicts_pauses),
    }
    return to_tensors(policy) | {k: np.array([v], np.float32) for k, v in numbers.items()}


def _learn_order(
    scenario: Scenario,
    start: AgentPolicy,
    traces: Sequence[Trace],
    base_s: NDArray[np.float64],
    config: TrainConfig,
    warm_start: Bundle | None,
    progress: Progress,
    on_progress: OnProgress,
) -> AgentPolicy | None:
    # Notes what was found in `progress`: the rule's constants, and points of the curve. Returns the
    # bundle's policy where it is better than the rule with any order.
    num = DEFAULT_ORDER_ROUNDS if config.order_rounds is None else config.order_rounds
    since = time.process_time()
    start_s, candidate, candidate_score = base_s, None, 0.0
    if warm_start is not None:
        given = take_over(
            scenario, start, warm_start.policy, traces, base_s, config.seed, num > 0,
            partial(counter, on_progress, "warm start"),
        )  # fmt: skip
        start, start_s, candidate = given.start, given.start_s, given.candidate
        candidate_score = caution_score(given.candidate_s, base_s)
        for latency_s, form in ((given.candidate_s, BUNDLE_FORM), (start_s, ORDER_FORM)):
            score, cpu_s = caution_score(latency_s, base_s), time.process_time() - since
            progress.curve.append(curve_point(0, cpu_s, latency_s, score) | {"form": form})
        if config.order_rounds is None:
            num //= 2
    settings = OrderSettings(generations=num)
    count = counter(on_progress, "order", num) if num else lambda: None
    warm_s = time.process_time() - since
    found = learn_order(scenario, start, traces, config.seed, settings, count, start_s, base_s)
    for point in found.curve:
        cpu_s = warm_s + point.cpu_s
        at = curve_point(point.num_decisions, cpu_s, point.latency_s, point.score)
        progress.curve.append(at | {"form": ORDER_FORM})
    progress.cpu_s = progress.curve[-1]["cpu_s"]
    progress.best_score = min(found.score, candidate_score)
    progress.ordered_rule = constants_of(found.rule)
    return candidate if candidate_score < found.score else None


def _end_of_order(progress: Progress) -> tuple[int, float]:
    # Steps, and the score of what was kept.
    points = [p for p in progress.curve if p.get("form", ORDER_FORM) == ORDER_FORM]
    return max(p["steps"] for p in points), min(p["score"] for p in points)


def _resumed(
    folder: Path, settings: dict[str, Any], config: TrainConfig
) -> tuple[Progress, dict[str, NDArray[Any]], dict[str, NDArray[np.float32]]]:
    progress, state, best = load_checkpoint(folder, settings)
    progress.num_rounds = config.num_rounds or progress.num_rounds
    path = folder / PROGRESS_FILE
    if progress.num_rounds < progress.rounds_done:
        raise InputError(
            f"the checkpoint has {progress.rounds_done} rounds, this run asks for"
            f" {progress.num_rounds}",
            path=path,
        )
    if odd := set(progress.tuned) ^ set(config.rules or RULES):
        names = ", ".join(sorted(odd))
        raise InputError(f"the checkpoint was made for other rules: {names}", path=path)
    return progress, state, best


def _restore(learner: Learner, state: dict[str, NDArray[Any]], folder: Path) -> None:
    try:
        learner.restore(state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the checkpoint was made for another network: {str(error).splitlines()[0]}",
            path=folder,
        ) from error


def curve_point(steps: int, cpu_s: float, latency: NDArray[np.float64], score: float) -> CurvePoint:
    """A validation; ``latency`` is that of each trace, ``[num_traces]``, s/token."""
    return {
        "steps": steps,
        "cpu_s": cpu_s,
        "validation_s": float(np.exp(np.log(latency).mean())),
        "score": score,
        "chosen": False,
    }
