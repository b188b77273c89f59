from __future__ import annotations

import json
import math
import sys
from functools import partial

import pytest

from rlkv.bench import run_bench
from rlkv.bench.measure import Size
from rlkv.bench.vllm_process import VARIABLE
from rlkv.real_vllm.model_folder import TINY_SHAPE
from rlkv.sidecar_process import SidecarProcess
from tests.vllm.server.deployment import OWN_PYTHON

POLICIES = ("lru", "rule", "sidecar")
SMALL = Size(
    repetitions=1,
    vllm_shape=TINY_SHAPE,
    vllm_policies=POLICIES,
    vllm_runs=1,
    vllm_context_tokens=512,
    vllm_agents=3,
    vllm_concurrent=3.0,
    vllm_pace_turns=1,
    vllm_admissions=1,
)


@pytest.mark.slow
def test_the_bench_runs_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, sys.executable)
    with_own = partial(SidecarProcess, python=OWN_PYTHON)
    monkeypatch.setattr("rlkv.bench.vllm.SidecarProcess", with_own)
    said: list[str] = []
    record = run_bench("vllm", SMALL, said.append)
    assert json.loads(json.dumps(record)) == record
    assert all(math.isfinite(value) and value >= 0.0 for value in record["figures"].values())
    assert {"pace_stopped_over_none", "admission_over_empty"} <= record["aims"].keys()
    measured_on = record["measured_on"]
    assert measured_on["vllm"].startswith("0.32.0")
    assert list(measured_on["policies"]) == list(POLICIES)
    for policy in POLICIES:
        assert 0.0 <= record["figures"][f"cached_share_{policy}"] < 1.0
        assert bool(measured_on["policies"][policy]["decisions"]) == (policy != "lru")
    assert any("run 1 of 1: sidecar" in text for text in said)
