"""A sidecar in a process of its own, for the time of a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlkv.own_sidecar import own_sidecar
from rlkv_agents.bundle import save_bundle
from rlkv_engine.errors import RlkvError
from tests.agents.small_scenario import random_network
from tests.rlkv.command_line import assert_refused, make_quick, run


def test_a_simulation_asks_it_and_a_record_is_replayed_without(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_quick(monkeypatch)
    save_bundle(tmp_path / "bundle", random_network(), {})
    with own_sidecar(tmp_path / "bundle") as url:
        code, out, err = run(
            capsys, "eval", "--scenario", "coding", "--sessions", 20, "--seeds", 2, "--no-tune",
            "--bundle", tmp_path / "bundle", "--sidecar", url, "--out", tmp_path / "out", "--json",
        )  # fmt: skip
    assert code == 0, err
    policies = json.loads(out)["policies"]
    asked, inside = policies["sidecar"], policies["learned"]
    assert asked["source"] == "asked" and asked["answered_share"] == 1.0
    assert asked["mean_by_seed_s"] == inside["mean_by_seed_s"]
    assert asked["num_decisions"] == inside["num_decisions"] == sum(asked["decisions"].values())
    code, out, err = run(capsys, "eval", "--replay", tmp_path / "out")
    assert code == 0, err
    assert "the record agrees" in out and "sidecar" not in out


def test_one_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(RlkvError, match=r"rlkv serve does not start: .*bundle\.json"),
        own_sidecar(tmp_path),
    ):
        pass


def test_an_address_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    said = ("--sessions", 4, "--seeds", 1, "--no-tune")
    refused = run(capsys, "eval", "--scenario", "coding", *said, "--sidecar", "http://x")
    assert_refused(refused, "http:// is not redis://")
