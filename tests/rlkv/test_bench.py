from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import typer.testing

import rlkv.bench
from rlkv.bench import BENCHES, run_bench
from rlkv.bench.measure import Size
from rlkv.cli.app import build_app
from rlkv_engine.errors import InputError

TINY = Size(
    repetitions=1,
    concurrent=(8,),
    iterations=2000,
    reference_sessions=4,
    num_envs=(2,),
    env_steps=5,
    train_envs=2,
    train_steps=16,
    train_sessions=150,
    forks_per_trace=4,
    evaluated_sessions=(),
    train_rounds=0,
)


@pytest.mark.parametrize("name", list(BENCHES))
def test_figures_are_finite_and_positive(name: str) -> None:
    record = run_bench(name, TINY)
    assert set(record) == {
        "bench", "figures", "aims", "measured_on", "commit", "command", "machine",
    }  # fmt: skip
    assert record["bench"] == name
    assert record["figures"]
    for figure, value in record["figures"].items():
        assert math.isfinite(value) and value > 0, figure
    assert set(record["aims"]) <= set(record["figures"])
    assert json.loads(json.dumps(record)) == record


def test_sim_runs_under_pressure_and_beside_the_reference() -> None:
    record = run_bench("sim", TINY)
    run = record["measured_on"]["runs"]["8"]
    assert run["decisions_per_1000_iterations"] > 0
    assert run["blocks_out_per_1000_iterations"] > 0
    assert "speedup_over_python" in record["figures"]
    assert "iterations_per_s_8_no_sprint" in record["figures"]


def test_unknown_bench_is_refused() -> None:
    with pytest.raises(InputError, match="unknown bench 'smi'"):
        run_bench("smi", TINY)


def test_all_writes_a_record_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(size: Size) -> dict[str, Any]:
        return {"figures": {"iterations_per_s_128": 2e6}, "measured_on": {}}

    monkeypatch.setattr(rlkv.bench, "BENCHES", {"sim": fake, "env": fake})
    result = typer.testing.CliRunner().invoke(
        build_app(), ["bench", "all", "--out", str(tmp_path / "results")]
    )
    assert result.exit_code == 0, result.output
    assert "2,000,000" in result.output and "met" in result.output
    for name in ("sim", "env"):
        record = json.loads((tmp_path / "results" / f"{name}.json").read_text())
        assert record["aims"]["iterations_per_s_128"] == {"aim": ">= 1e+06", "met": True}
