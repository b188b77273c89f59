"""A bundle that is in use: its policy ready to answer, its version, and its gates."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.bundle import Bundle, load_bundle
from rlkv_agents.inference import rule_verbs
from rlkv_agents.tree_verbs import answers_of
from rlkv_engine.observe import FEATURES
from rlkv_engine.tree import AS_RULE, NO_TREE, NUM_POINTS
from rlkv_service.deciding.confidence import Calibration
from rlkv_service.deciding.network import Network


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """The bundle that decides, and how."""

    name: str
    version: str  #: as verdicts carry it
    loaded_s: float  #: when, seconds since the epoch
    shadow: bool  #: it only watches
    min_confidence: float  #: below, the rule answers
    metadata: dict[str, Any]  #: of the bundle: what bundle.json says


class Answers(NamedTuple):
    """What a bundle says of each row, whether or not it should be heard."""

    verb: NDArray[np.int8]  # [n], legal
    confidence: NDArray[np.float64]  # [n], chance that it is no worse than the rule's
    unsure: NDArray[np.bool_]  # [n], by the bundle's own threshold


class ActiveBundle:
    """A bundle in use. Does not change; for several threads.

    Args:
        bundle: as loaded.

    Raises:
        InputError: its table of reliability cannot be read.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.policy = bundle.policy
        self.metadata = dict(bundle.metadata)
        self.version = f"{self.policy.name}@{str(bundle.metadata['weights_sha256'])[:12]}"
        self.loaded_s = time.time()
        self._calibration = Calibration(bundle.metadata)
        self._network = None
        if self.policy.weights is not None:
            self._network = Network(self.policy)
        unlimited = np.full(len(FEATURES), np.inf)
        #: The range of each feature that was met in training, ``[NUM_FEATURES]`` each.
        self.low: NDArray[np.float64]
        self.high: NDArray[np.float64]
        self.low, self.high = self.policy.trained_range or (-unlimited, unlimited)

    @classmethod
    def load(cls, folder: Path | str) -> ActiveBundle:
        """Loads and checks a bundle's files; raises ``InputError`` as ``load_bundle`` does."""
        return cls(load_bundle(folder))

    def answer(
        self,
        observations: NDArray[np.float32],
        swap_legal: NDArray[np.bool_],
        largest: float,
    ) -> Answers:
        """The verbs that the policy takes inside an engine, before its gates.

        Args:
            observations: ``[n, NUM_FEATURES]``.
            swap_legal: where SWAP may be answered, ``[n]``.
            largest: size of the largest number in the observations that matter.
        """
        num = len(observations)
        unsure = np.zeros(num, np.bool_)
        if self._network is not None:
            verb, probability = self._network(observations, swap_legal, largest)
            confidence = self._calibration(probability)
            if self.policy.min_confidence > 0.0:
                unsure = probability <= self.policy.min_confidence
        else:
            verb, confidence = rule_verbs(observations).astype(np.int8), np.ones(num)
        if self.policy.trees is None:
            return Answers(verb, confidence, unsure)
        trees = self.policy.trees
        point = observations[:, :NUM_POINTS].argmax(axis=1)  # the first features say which
        answer = answers_of(trees, observations, point, swap_legal)
        answer = np.where(answer == AS_RULE, rule_verbs(observations), answer)
        has_tree = trees.root[point] != NO_TREE
        verb = np.where(has_tree, answer, verb).astype(np.int8)
        # A tree has no doubts.
        return Answers(verb, np.where(has_tree, 1.0, confidence), unsure & ~has_tree)
