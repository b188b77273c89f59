from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rlkv_agents.bundle import save_bundle
from rlkv_engine.errors import InputError
from rlkv_engine.observe import NUM_FEATURES
from rlkv_service.deciding.active_bundle import ActiveBundle
from rlkv_service.deciding.bundle_watch import BundleWatch
from rlkv_service.deciding.check_rows import check_bundle, made_up_rows
from rlkv_service.deciding.decider import Decider
from tests.agents.small_scenario import random_network
from tests.service.deciding.damaged_bundles import (
    gone,
    of_another_version,
    of_other_features,
    truncated,
    with_nan,
)
from tests.service.deciding.simulated import active


class Watched:
    def __init__(self, folder: Path) -> None:
        self.folder, self.results = folder, list[str]()
        save_bundle(folder, random_network(), {})
        self.watch = BundleWatch(folder, lambda: [made_up_rows(8)], self.results.append)
        self.decider = Decider(self.watch.first)
        self.first = self.decider.bundle.version

    def look(self) -> None:
        for _ in range(3):
            self.watch.look(self.decider)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "bundle")


def test_a_new_bundle_is_loaded(watched: Watched) -> None:
    watched.look()
    assert watched.results == []
    save_bundle(watched.folder, random_network(1), {})
    watched.watch.look(watched.decider)
    assert watched.decider.bundle.version == watched.first  # it may not be whole yet
    watched.look()
    assert watched.results == ["loaded"]
    assert watched.decider.bundle.version != watched.first


def test_the_same_written_again_is_no_other(watched: Watched) -> None:
    bundle = watched.decider.bundle
    save_bundle(watched.folder, random_network(), {})
    watched.look()
    assert watched.results == [] and watched.decider.bundle is bundle


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (truncated, "SHA-256"),
        (of_another_version, "format_version 99"),
        (with_nan, "not finite"),
        (of_other_features, f"{NUM_FEATURES - 1} observations"),
        (gone, "cannot read"),
    ],
)
def test_what_cannot_be_used_is_refused_and_the_old_one_goes_on(
    watched: Watched,
    damage: Callable[[Path], None],
    named: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(watched.folder)
    with caplog.at_level(logging.INFO):
        watched.look()
        watched.look()
    assert watched.results == ["refused"]
    assert watched.decider.bundle.version == watched.first
    (record,) = caplog.records
    assert named in record.message and watched.first in record.message
    assert "\n" not in record.message
    save_bundle(watched.folder, random_network(2), {})
    watched.look()
    assert watched.results == ["refused", "loaded"]


def test_a_first_bundle_must_be_usable(tmp_path: Path) -> None:
    save_bundle(tmp_path, random_network(), {})
    with_nan(tmp_path)
    with pytest.raises(InputError, match="not finite"):
        BundleWatch(tmp_path)


def test_answers_are_checked() -> None:
    good = active(random_network())
    check_bundle(good, [made_up_rows(3)])

    class Broken(ActiveBundle):
        def answer(self, *arguments: object) -> object:  # type: ignore[override]
            answers = good.answer(*arguments)  # type: ignore[arg-type]
            return answers._replace(confidence=answers.confidence * np.nan)

    broken = Broken.__new__(Broken)
    broken.__dict__.update(good.__dict__)
    with pytest.raises(InputError, match="confidence"):
        check_bundle(broken, [])


def test_made_up_rows_are_always_the_same() -> None:
    np.testing.assert_array_equal(made_up_rows().facts, made_up_rows().facts)
