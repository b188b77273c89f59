from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlkv_agents import ceiling
from rlkv_agents.bundle import save_bundle
from rlkv_agents.planner import Search
from rlkv_envs.scenario import PRESETS
from tests.agents.small_scenario import random_network
from tests.rlkv.command_line import SMALL_PRESET, assert_refused, contents, make_quick, run

LEARNT, NEW = "crossover-slow", "unseen-tiny-host"
TINY = ("--seeds", "2", "--workers", "1", "--policies", "lru")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    make_quick(monkeypatch)
    monkeypatch.setattr(
        "rlkv_agents.tune.validation_traces",
        lambda scenario, num=2: [scenario.trace(seed, "validation") for seed in range(2)],
    )
    short = (Search("segments 4", 2.0, 0.5, 8, 0.1),)
    monkeypatch.setattr(ceiling, "SHORT", (Search("rollout 2", 0.5),))
    monkeypatch.setattr(ceiling, "LONG", {0: (), 1: short})
    shipped = dict(PRESETS)
    PRESETS.clear()
    # Memory runs short on the first; with half the sessions no decision matters.
    PRESETS[LEARNT] = replace(SMALL_PRESET, num_sessions=80, suite="trained")
    PRESETS[NEW] = replace(SMALL_PRESET, profile="gptj-6b-a100-40gb+host0.1", suite="unseen")
    yield
    PRESETS.clear()
    PRESETS.update(shipped)


@pytest.mark.pictures
@pytest.mark.slow
def test_the_ceiling_of_every_trace(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_bundle(tmp_path / "bundle", random_network(), {})
    out_folder = tmp_path / "out"
    words = ("suite", "ceiling", *TINY, "--bundle", tmp_path / "bundle", "--out", out_folder)
    code, out, _ = run(capsys, *words, "--json")
    assert code == 0
    record: Any = json.loads(out)
    assert json.loads((out_folder / "ceiling.json").read_text()) == record
    assert (record["reference"], record["learned"]) == ("house", ["learned"])
    assert record["commit"] and record["machine"] and record["command"].startswith("rlkv suite")
    assert list(record["scenarios"]) == [LEARNT, NEW]
    for found in record["scenarios"].values():
        by_seed = found["ceiling"]["mean_by_seed_s"]
        assert set(found["policies"]) == {"house", "lru", "clairvoyant", "learned"}
        for policy in found["policies"].values():
            # Nobody is above the ceiling, on no trace.
            for best, own in zip(by_seed, policy["mean_by_seed_s"], strict=True):
                assert best <= own
        assert len(found["plans"]) == 2
        for plan in found["plans"]:
            bases = {name.split(", ")[0] for name in plan["found"]}
            assert bases == {"house", "clairvoyant", "learned"}
            assert plan["latency_s"] == min(plan["found"].values())
        empty = found["marks"]["empty engine"]["mean_s"]
        assert 0.0 < empty < found["marks"]["unlimited memory"]["mean_s"]
        counted = sum(row["count"] for row in found["differences"])
        assert counted == sum(plan["num_answers"] for plan in found["plans"])
    shares = {
        name: [found["policies"][name]["gap_closed"]["share"] for name in ("house", "clairvoyant")]
        for name, found in record["scenarios"].items()
    }
    assert shares[LEARNT][0] == 0.0 and shares[LEARNT][1] < 1.0
    assert shares[NEW] == [None, None]
    ratios = [f["ceiling"]["ratio_to_reference"]["ratio"] for f in record["scenarios"].values()]
    assert ratios[0] < 0.98 and ratios[1] == 1.0
    assert (out_folder / "ceiling.png").read_bytes()[:4] == b"\x89PNG"
    tables = (out_folder / "ceiling.md").read_text()
    for words_of in ("The ceiling", "Share of the gap closed", "| lru |", "clairvoyant (f)"):
        assert words_of in tables

    # The same command again has nothing to search, and finds the same.
    before = contents(out_folder / "plans")
    code, out, err = run(capsys, *words, "--json")
    assert code == 0 and "searches" not in err
    assert json.loads(out)["scenarios"] == record["scenarios"]
    assert contents(out_folder / "plans") == before


@pytest.mark.slow
def test_tables_fit_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    code, out, _ = run(
        capsys, "suite", "ceiling", *TINY, "--scenarios", LEARNT, "--effort", "0", "--only",
        "resume, new", "--out", tmp_path,
    )  # fmt: skip
    assert code == 0
    assert max(map(len, out.splitlines())) <= 70 and "…" not in out
    record = json.loads((tmp_path / "ceiling.json").read_text())
    assert record["effort"] == {"level": 0, "points": ["new", "resume"], "seed": 0}
    plans = record["scenarios"][LEARNT]["plans"]
    assert all(plan["search"] in ("rollout 2", "base") for plan in plans)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--policies", "nope"), "unknown rule 'nope'"),
        (("--scenarios", "nope"), "unknown scenario 'nope'"),
        (("--seeds", "0"), "--seeds must be 1"),
        (("--workers", "0"), "--workers must be 1"),
        (("--effort", "9"), "--effort must be one of 0, 1"),
        (("--only", "new,old"), "unknown decision point 'old'"),
        (("--bundle", "nowhere"), "nowhere"),
    ],
)
def test_input_that_makes_no_sense(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, str], named: str
) -> None:
    assert_refused(run(capsys, "suite", "ceiling", "--out", tmp_path / "out", *words), named)
    assert not (tmp_path / "out").exists()
