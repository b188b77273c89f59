"""How a recipe learns against the time that it takes, without checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rlkv_agents.checkpoint import CurvePoint
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.train import LEARNED, RECIPES, curve_point
from rlkv_agents.tune import caution_score, validation_latency_s
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario


def learning_curve(
    scenario: Scenario,
    start: AgentPolicy,
    recipe: str,
    seed: int,
    traces: Sequence[Trace],
    *,
    is_enough: Callable[[CurvePoint], bool],
    max_rounds: int | None = None,
    validate_every: int = 1,
    on_point: Callable[[CurvePoint], None] = lambda point: None,
) -> list[CurvePoint]:
    """Validations of a recipe that starts at a rule, the start's first.

    Args:
        scenario: learnt on its training traces.
        start: the rule, with its constants.
        recipe: one of ``RECIPES``.
        seed: of everything random in training.
        traces: that snapshots are judged on; ``score`` is the ``caution_score`` against the start.
        is_enough: ends the curve; asked at every point.
        max_rounds: ends it too.
        validate_every: rounds between two points.
        on_point: hears of every point as it comes.

    Returns:
        Points whose ``cpu_s`` counts rounds and validations, but not the start's.

    Raises:
        InputError: a session that the machine cannot hold.
    """
    learner_type = RECIPES[recipe]()
    learner = learner_type(scenario, start.rule, seed)
    base = validation_latency_s(scenario, start, traces)
    curve = [curve_point(0, 0.0, base, 0.0)]
    on_point(curve[-1])
    since = time.process_time()
    number = 0
    while not is_enough(curve[-1]) and (max_rounds is None or number < max_rounds):
        for _ in range(validate_every):
            scenario.check_fits("train", learner_type.trace_seeds(seed, number))
            metrics = learner.run_round(number)
            number += 1
        latency = validation_latency_s(scenario, learner.policy(LEARNED), traces)
        steps = int(metrics["time/total_timesteps"])
        score = caution_score(latency, base)
        learner.judge(score)
        curve.append(curve_point(steps, time.process_time() - since, latency, score))
        on_point(curve[-1])
    best = min(range(len(curve)), key=lambda i: curve[i]["score"])
    for i, point in enumerate(curve):
        point["chosen"] = i == best
    return curve
