"""Bundles of a sidecar, each answer of which can be checked against the bundle in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rlkv_agents.bundle import save_bundle
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.deciding.active_bundle import ActiveBundle
from rlkv_service.deciding.check_rows import made_up_rows
from rlkv_service.deciding.decider import Decider
from rlkv_service.schema import LOCAL_REASONS
from tests.agents.small_scenario import random_network


class Bundles:
    """A folder with a bundle, and every bundle that was ever there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._deciders: dict[str, Decider] = {}
        self.put(0)

    def put(self, seed: int) -> str:
        """Puts another bundle into the folder; its version."""
        save_bundle(self.folder, random_network(seed), {})
        bundle = ActiveBundle.load(self.folder)
        decider = Decider(bundle)
        decider.decide("engine", made_up_rows())  # compiles what is not compiled yet
        self._deciders[bundle.version] = decider
        return bundle.version

    def check(self, rows: DecisionRows, verdicts: VerdictRows) -> None:
        """Verdicts are about these rows, and from one of the bundles, all of them.

        The verb of the network and its probability are of the facts alone. Two rows seldom have the
        same probability: an answer to other rows is seen.
        """
        assert (verdicts.reason < LOCAL_REASONS[0]).all()
        expected = self._deciders[verdicts.policy_version].decide("engine", rows)
        np.testing.assert_array_equal(verdicts.policy_verb, expected.policy_verb)
        np.testing.assert_allclose(verdicts.confidence, expected.confidence, atol=1e-4)
