"""What ``rlkv train`` says of what was learnt, and the trees it may save in its place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rlkv.cli.explain import tree_metadata
from rlkv.explain import explain, num_explain_steps
from rlkv_agents.train import OnProgress, TrainResult, counter
from rlkv_envs.scenario import Scenario


def explain_training(
    scenario: Scenario,
    result: TrainResult,
    seeds: range,
    seed: int,
    as_tree: bool,
    on_progress: OnProgress,
) -> tuple[TrainResult, dict[str, Any], dict[str, Any]]:
    """What was learnt, in words; with ``as_tree`` the trees become the result.

    Returns:
        The result, its explanation, and what the bundle says of the trees in it.
    """
    steps = num_explain_steps(result.policy, len(seeds), every_depth=False)
    explanation, distilled = explain(
        scenario,
        result.policy,
        seeds,
        seed=seed,
        every_depth=False,
        on_step=counter(on_progress, "explain", steps),
    )
    if not as_tree or distilled is None or not distilled.is_safe:
        return result, explanation | {"saved": explanation["kind"]}, {}
    trees = replace(result, policy=distilled.policy)
    return trees, explanation | {"saved": "trees"}, tree_metadata(scenario, distilled)


def why_no_trees(explanation: dict[str, Any]) -> str:
    """Why a run that was asked for trees has none."""
    if "depth" not in explanation:
        return "no trees: what was learnt never departs from its rule"
    ratio = explanation["validation"][f"depth {explanation['depth']}"]["ratio"]
    return (
        f"no trees: on validation traces they take {ratio:.3f}x of the rule's latency, too much to"
        " be sure; the bundle holds the network"
    )
