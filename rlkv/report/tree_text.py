"""Trees as text that a person can check: questions in words, and what each leaf decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv.report.feature_words import Units, question
from rlkv_agents.demonstrations import Demonstrations
from rlkv_agents.departures import REQUESTERS
from rlkv_agents.inference import greedy_verbs, knows, rule_verbs
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.tree_verbs import leaves_of
from rlkv_engine.observe import FEATURES
from rlkv_engine.state import SWAP
from rlkv_engine.tree import AS_RULE, LEAF, NO_TREE, Trees, no_trees

#: What asks, in words.
WHO = {
    "CALL": "A call begins",
    "NEW": "A new session needs memory",
    "RESUME": "A returning session needs memory",
    "DECODE": "A decoding session needs memory",
}
ANSWERS = ("PRESERVE", "SWAP", "DISCARD", "as the rule")


def describe_trees(
    policy: AgentPolicy, shown: Demonstrations, units: Units, *, own_verbs: bool
) -> list[dict[str, Any]]:
    """A description of each decision point that was met, as it stands in an explanation.

    Args:
        policy: of trees.
        shown: decisions on its path, with the verbs of the teacher that the trees were made from.
        units: of the machine.
        own_verbs: there is no teacher, the verbs are the trees' own: they say nothing of agreement.

    Returns:
        ``requester``, its share of all ``decisions``, ``agreement`` with the teacher (None without
        one), the share of its decisions that ``departed`` from the rule, and ``lines``.
    """
    trees = policy.trees or no_trees()
    total = float(shown.weight.sum())
    leaves = leaves_of(trees, shown.observation, shown.point)
    leaves[~knows(policy, shown.observation)] = NO_TREE
    verbs = greedy_verbs(policy, shown.observation, shown.mask[:, SWAP])
    agrees, departs = verbs == shown.verb, verbs != rule_verbs(shown.observation)
    described = []
    for point, requester in enumerate(REQUESTERS):
        here = shown.point == point
        if not here.any():
            continue
        weight = shown.weight[here]
        tell = _Leaves(leaves[here], weight, None if own_verbs else agrees[here], departs[here])
        root = int(trees.root[point])
        lines = [ANSWERS[AS_RULE]]
        if root != NO_TREE:
            lines = _lines(trees, root, units, tell, "")
            if (leaves[here] == NO_TREE).any():
                lines.append(f"outside its training: {ANSWERS[AS_RULE]}  [{tell.words(NO_TREE)}]")
        described.append(
            {
                "requester": requester,
                "who": WHO[requester],
                "decisions": float(weight.sum()) / total,
                "agreement": None if own_verbs else tell.share(agrees[here]),
                "departed": tell.share(departs[here]),
                "lines": lines,
            }
        )
    return described


class _Leaves:
    """What is known of each leaf of one tree."""

    def __init__(
        self,
        leaf: NDArray[np.int64],
        weight: NDArray[np.float64],
        agrees: NDArray[np.bool_] | None,
        departs: NDArray[np.bool_],
    ) -> None:
        self.leaf, self.weight = leaf, weight
        self.agrees, self.departs = agrees, departs

    def share(self, chosen: NDArray[np.bool_]) -> float:
        return float(self.weight[chosen].sum()) / float(self.weight.sum())

    def words(self, leaf: int) -> str:
        here = self.leaf == leaf
        if not here.any():
            return "not met"
        weight = self.weight[here]
        said = [f"{self.share(here):.1%} of these decisions"]
        if self.agrees is not None:
            said.append(f"agrees {weight[self.agrees[here]].sum() / weight.sum():.0%}")
        said.append(f"departs from the rule {weight[self.departs[here]].sum() / weight.sum():.0%}")
        return ", ".join(said)


def _lines(trees: Trees, node: int, units: Units, tell: _Leaves, indent: str) -> list[str]:
    if trees.feature[node] == LEAF:
        return [f"{indent}{answer_words(trees.ranking[node])}  [{tell.words(node)}]"]
    name = FEATURES[int(trees.feature[node])].name
    deeper = indent + "    "
    return [
        f"{indent}if {question(name, float(trees.threshold[node]), units)}:",
        *_lines(trees, int(trees.left[node]), units, tell, deeper),
        f"{indent}else:",
        *_lines(trees, int(trees.right[node]), units, tell, deeper),
    ]


def answer_words(ranking: Sequence[int] | NDArray[np.int64]) -> str:
    """What a leaf answers; with SWAP, what it answers where the host has no room for it."""
    first = ANSWERS[int(ranking[0])]
    if int(ranking[0]) != SWAP:
        return first
    return f"{first} (without host room {ANSWERS[int(ranking[1])]})"
