"""The bundle that comes with the package: small, sound, and found by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlkv_agents.bundle import load_bundle
from rlkv_agents.evaluate import run_policy
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.shipped import UNIVERSAL, bundle_folder, bundle_from, bundle_place
from rlkv_envs.scenario import load_scenario

MAX_BYTES = 200_000


def test_it_is_small_and_says_what_it_was_made_from() -> None:
    files = list(bundle_folder(UNIVERSAL).iterdir())
    assert sum(file.stat().st_size for file in files) < MAX_BYTES
    metadata = load_bundle(UNIVERSAL).metadata
    assert metadata["recipe"] == UNIVERSAL and len(metadata["machines"]) > 8
    assert not any(name.startswith("unseen") for name in metadata["machines"])


@pytest.mark.parametrize("name", ["crossover-slow", "unseen-crossover-quarter-link"])
def test_it_is_better_than_the_plain_rule_where_verbs_matter(name: str) -> None:
    scenario = load_scenario(name)
    policies = (load_bundle(UNIVERSAL).policy, AgentPolicy("house", House()))
    ours, rule = (
        np.array(
            [run_policy(scenario, p, scenario.trace(s, "test")).mean_latency_s for s in (0, 1)]
        )
        for p in policies
    )
    assert (ours < rule).all()


def test_a_folder_of_that_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundle_folder(UNIVERSAL) != Path(UNIVERSAL)
    (tmp_path / UNIVERSAL).mkdir()
    assert bundle_folder(UNIVERSAL) == Path(UNIVERSAL)


def test_a_record_names_it_wherever_it_lies(tmp_path: Path) -> None:
    assert bundle_place(Path(UNIVERSAL), tmp_path) == UNIVERSAL
    assert bundle_from(UNIVERSAL, tmp_path) == Path(UNIVERSAL)
    place = bundle_place(tmp_path / "run" / "bundle", tmp_path / "records")
    assert bundle_from(place, tmp_path / "records").resolve() == tmp_path / "run" / "bundle"
