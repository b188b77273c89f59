"""What a training run is told apart by."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import Any

from rlkv_agents.bundle import Bundle
from rlkv_envs.scenario import Scenario


def run_settings(
    scenario: Scenario, recipe: str, seed: int, warm_start: Bundle | None = None
) -> dict[str, Any]:
    """What a run is told apart by: one is only resumed by another that asks for the same."""
    return {
        "scenario": scenario.name,
        "profile": scenario.profile.name,
        "workload": scenario.workload.name,
        "rate_per_s": scenario.rate_per_s,
        "num_sessions": scenario.num_sessions,
        "recipe": recipe,
        "seed": seed,
        "warm_start": warm_start and warm_start.metadata["weights_sha256"][:12],
        # A name may come to stand for other numbers: a TOML or a trace that was edited.
        "profile_sha256": _profile_sha256(scenario),
        "sessions_sha256": _sessions_sha256(scenario),
    }


def _profile_sha256(scenario: Scenario) -> str:
    numbers = [
        (spec.name, getattr(scenario.profile, spec.name))
        for spec in fields(scenario.profile)
        if "unit" in spec.metadata
    ]
    return hashlib.sha256(repr(numbers).encode()).hexdigest()[:12]


def _sessions_sha256(scenario: Scenario) -> str:
    trace = scenario.trace(0, "validation")
    digest = hashlib.sha256()
    for array in (trace.arrival_s, trace.input_tokens, trace.output_tokens, trace.pause_s):
        digest.update(array.tobytes())
    return digest.hexdigest()[:12]
