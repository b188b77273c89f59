from __future__ import annotations

import json
import math

import numpy as np
import pytest
import typer.testing

from rlkv.cli.app import build_app
from rlkv.infercept_runs import (
    PRESERVE,
    SWAP,
    VLLM,
    rate_at_latency,
    saturated_run,
    sessions_of,
    window_run,
)
from rlkv.infercept_shapes import SHAPES, Shape
from rlkv.validation import ValidationConfig, validate
from rlkv_engine.profile import load_profile

PROFILE = "gptj-6b-a100-40gb"
TINY = ValidationConfig(
    profiles=(PROFILE,),
    num_finished=12,
    backlog=24,
    pools_blocks=(1500,),
    chat_pauses_s=(3.02, 10.02),
    rates_per_s=(1.0, 3.0, 6.0),
    levels_s=(0.03,),
    window_s=40.0,
    seeds=(0,),
)


def test_environments_swap_slower_than_discard_and_preserve_faster() -> None:
    trace = sessions_of("ve", 40)
    profile = load_profile(PROFILE)
    swap, discard, preserve = (
        saturated_run(profile, server, trace, 40)[0] for server in (SWAP, VLLM, PRESERVE)
    )
    assert swap < discard < preserve


def test_a_window_measures_recompute_and_latency() -> None:
    result = window_run(load_profile(PROFILE), VLLM, 2.0, seed=0, window_s=60.0)
    assert 0 < result.recompute_time_ratio < 1
    assert 0 < result.finished_per_s < 2.5
    assert result.stall_ratio == 0
    assert 0.005 < result.normalized_latency_s < 1


def test_sessions_of_one_kind() -> None:
    trace = sessions_of("ve", 20, published_calls=True)
    assert trace.num_sessions == 20
    assert np.diff(trace.first_turn).mean() > 15
    chat = sessions_of("chatbot/human", 20, pause_s=3.0)
    assert set(chat.pause_s[np.isfinite(chat.pause_s)]) == {3.0}


def test_rate_at_latency_interpolates_logarithms() -> None:
    rates = np.array([1.0, 2.0, 3.0])
    latency = np.array([0.01, 0.1, 1.0])
    assert rate_at_latency(rates, latency, math.sqrt(0.01 * 0.1)) == pytest.approx(1.5)
    assert math.isnan(rate_at_latency(rates, latency, 2.0))
    assert math.isnan(rate_at_latency(rates, latency, 0.005))


@pytest.mark.parametrize(
    ("published", "is_ratio", "ours", "verdict"),
    [
        (3.0, True, 3.5, "comes out"),
        (3.0, True, 9.0, "direction only"),
        (3.0, True, 0.9, "does not"),
        (0.97, True, 0.83, "direction only"),
        (0.57, True, 0.6, "comes out"),
        (100.0, False, 125.0, "comes out"),
        (100.0, False, 140.0, "does not"),
        (100.0, False, math.nan, "does not"),
        (100.0, False, None, "not measured"),
    ],
)
def test_verdicts(published: float, is_ratio: bool, ours: float | None, verdict: str) -> None:
    shape = Shape("shape", str(published), published, published, is_ratio, lambda figures: ours)
    assert shape.verdict(shape.figure({})) == verdict


def test_a_record_has_every_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    record = validate(TINY)
    assert [shape["shape"] for shape in record["shapes"]] == [shape.name for shape in SHAPES]
    mixture = record["figures"][PROFILE]["mixture"]
    assert 0 < mixture["recompute_time_ratio_at_knee"] < 1
    monkeypatch.setattr("rlkv.validation.validate", lambda on_run: record)
    result = typer.testing.CliRunner().invoke(build_app(), ["validate", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads(json.dumps(record, allow_nan=False))
