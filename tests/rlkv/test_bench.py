from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer.testing

import rlkv.bench
from rlkv.bench import BENCHES, run_bench
from rlkv.bench.measure import Size
from rlkv.bench.onnx_policy import onnx_session
from rlkv.cli.app import build_app
from rlkv_agents.house_rule import House
from rlkv_agents.inference import BatchInference
from rlkv_agents.tune import TunedRule
from rlkv_engine.errors import InputError, RlkvError
from tests.agents.small_scenario import small_scenario

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
    pass_rounds=1,
    pass_sessions=20,
    inference_rows=(1, 9),
    inference_calls=2,
    engine_shape={
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
    },
    # Few tokens take less than what a busy machine adds to one of the two times compared.
    engine_tokens=48,
    calibration_rounds=1,
    calibration_blocks=64,
    fidelity_workloads=("crossover",),
    fidelity_rules=("house",),
    fidelity_sessions=3,
    fidelity_seeds=1,
    fidelity_around_sessions=2,
    http_requests=16,
    proxy_streams=(2,),
    proxy_chunks=4,
    resume_contexts=(64, 256),
    sidecar_requests=40,
    pace_rounds=1,
    answer_ages=(2,),
    age_sessions=12,
    age_seeds=1,
)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BENCHES))
def test_figures_are_finite_and_positive(name: str) -> None:
    record = run_bench(name, TINY)
    assert set(record) == {
        "bench", "figures", "aims", "measured_on", "commit", "command", "machine",
    }  # fmt: skip
    assert record["bench"] == name
    assert record["figures"]
    for figure, value in record["figures"].items():
        # Nobody may have been late; and a difference of two times may be any.
        any_sign = figure == "answered_in_time_ratio" or figure.startswith("added_")
        assert math.isfinite(value) and (value > 0 or any_sign), figure
    assert set(record["aims"]) <= set(record["figures"])
    assert json.loads(json.dumps(record)) == record


def test_sim_runs_under_pressure_and_beside_the_reference() -> None:
    record = run_bench("sim", TINY)
    run = record["measured_on"]["runs"]["8"]
    assert run["decisions_per_1000_iterations"] > 0
    assert run["blocks_out_per_1000_iterations"] > 0
    assert "speedup_over_python" in record["figures"]
    assert "iterations_per_s_8_no_sprint" in record["figures"]


def test_training_passes_the_tuned_rule_or_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlkv.bench import train

    scores = iter([0.1, 0.2, -0.1, 0.1, 0.2])
    scenario = small_scenario()

    def curve(scenario: Any, start: Any, *rest: Any, is_enough: Any, max_rounds: int) -> Any:
        points = []
        for steps in range(max_rounds + 1):
            points.append({"score": next(scores), "cpu_s": 3.0, "validation_s": 2.0 + steps})
            if is_enough(points[-1]):
                break
        return points

    monkeypatch.setattr(train, "tune", lambda *rest: TunedRule(House(), {}, 1.0, [], 1))
    monkeypatch.setattr(train, "learning_curve", curve)
    monkeypatch.setattr(train, "validation_traces", lambda *rest: [])
    # The first curve compiles and is not counted.
    figures = train.passing_cpu_s(scenario, 1)
    assert set(figures) == {
        "cpu_s_to_tune_rule", "cpu_s_to_pass_rule", "cpu_s_to_pass_tuned_rule",
        "validation_ratio_when_passed",
    }  # fmt: skip
    assert figures["cpu_s_to_pass_rule"] >= figures["cpu_s_to_tune_rule"]
    assert figures["cpu_s_to_pass_tuned_rule"] == 3.0
    scores = iter([0.1, 0.2, 0.1, 0.2])
    assert set(train.passing_cpu_s(scenario, 1)) == {"cpu_s_to_tune_rule"}


def test_answers_that_differ_are_noticed() -> None:
    from rlkv.bench import inference

    policy = inference.random_policy()
    rows, masks = inference.random_decisions(200)
    session = onnx_session(policy)
    inference.check_agreement(policy, session, rows, masks)
    other = replace(policy, prior=policy.prior + 0.01)
    with pytest.raises(RlkvError, match="a probability of ONNX Runtime is off by"):
        inference.check_agreement(other, session, rows, masks)
    # Both the network and the rule are asked in these rows.
    by_rule = BatchInference(policy)(rows, masks).by_rule
    assert 0 < by_rule.sum() < len(rows)


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
