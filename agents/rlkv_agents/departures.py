"""Where a policy departs from its rule: shares of decisions by who asks, memory, pause, context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.demonstrations import Demonstrations, Teacher, demonstrate
from rlkv_agents.inference import rule_verbs
from rlkv_agents.policy import AgentPolicy
from rlkv_engine.observe import FEATURES
from rlkv_engine.state import PRESERVE
from rlkv_envs.scenario import Scenario
from rlkv_envs.workloads import Split

#: Who asks, by decision point; DECODE is what the scheduler's page calls GROW.
REQUESTERS = ("CALL", "NEW", "RESUME", "DECODE")
#: Bins of each quantity: equal shares of the decisions at which memory is short.
NUM_BINS = 5
#: A quantity within this share of its largest value is not told apart.
HARDLY = 0.05
#: Of a feature that is r / (r + 1): above it the float32 no longer says r.
_ALMOST_1 = 1.0 - 1e-6
_INDEX = {feature.name: i for i, feature in enumerate(FEATURES)}


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something decisions are told apart by; ``unit`` is that of its values."""

    name: str
    title: str
    unit: str


QUANTITIES = (
    Quantity("memory", "free and reclaimable device memory", "share of the pool"),
    Quantity("paused", "device memory of paused sessions", "share of the pool"),
    Quantity("remaining", "expected remaining pause", "mean pauses"),
    Quantity("context", "context", "tokens"),
    Quantity("link", "copying out and in over recomputing", "times"),
)


def watch_policy(
    scenario: Scenario,
    policy: AgentPolicy,
    seeds: Sequence[int],
    *,
    split: Split = "validation",
    num_per_trace: int = 8000,
) -> Demonstrations:
    """What a policy answers along its own path; a row's weight is the decisions it stands for."""
    return demonstrate(
        Teacher(scenario, policy),
        policy,
        [scenario.trace(seed, split) for seed in seeds],
        obey_teacher=True,
        num_per_trace=num_per_trace,
        rng=np.random.default_rng(0),
    )


def quantity_values(
    scenario: Scenario, observations: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    """Values of each of ``QUANTITIES``, ``[n]``, for observations ``[n, num_features]``."""
    x = observations.astype(np.float64)
    remaining = np.clip(x[:, _INDEX["remaining_pauses"]], 0.0, _ALMOST_1)
    return {
        "memory": x[:, _INDEX["free"]] + x[:, _INDEX["reclaimable"]],
        "paused": x[:, _INDEX["paused_firm"]],
        "remaining": remaining / (1.0 - remaining),
        "context": x[:, _INDEX["context"]] * scenario.profile.device_tokens,
        "link": 10.0 ** x[:, _INDEX["link_over_recompute"]],
    }


def departures(scenario: Scenario, shown: Demonstrations) -> dict[str, Any]:
    """Shares of decisions at which the policy does not answer as its rule would.

    Args:
        scenario: machine and sessions of the decisions.
        shown: what the policy answered (``watch_policy``).

    Returns:
        ``departed``: the share of all decisions. ``requesters``: for each that asks, its share of
        all ``decisions``, the share of its own that ``departed``, and ``directions``: rule verb,
        policy verb and their share of its decisions. ``quantities``: for each, the ``edges`` of
        its bins and for each requester and bin the ``decisions`` (share of the requester's),
        ``departed`` (share of the bin's) and ``verbs``, the share of the bin's departures to each
        verb. CALLs are not binned: memory is not short there.
    """
    rule = rule_verbs(shown.observation)
    departed = shown.verb != rule
    weight = shown.weight
    values = quantity_values(scenario, shown.observation)
    document: dict[str, Any] = {
        "departed": _share(weight, departed),
        "requesters": {},
        "quantities": {},
    }
    for point, name in enumerate(REQUESTERS):
        here = shown.point == point
        if not here.any():
            continue
        pairs = sorted({(int(r), int(v)) for r, v in zip(rule, shown.verb, strict=True) if r != v})
        document["requesters"][name] = {
            "decisions": _share(weight, here),
            "departed": _share(weight[here], departed[here]),
            "directions": [
                [r, v, share]
                for r, v in pairs
                if (share := _share(weight[here], ((rule == r) & (shown.verb == v))[here])) > 0.0
            ],
        }
    short = shown.point > 0
    for quantity in QUANTITIES:
        edges = _edges(values[quantity.name][short], weight[short])
        if len(edges) < 2:
            continue
        bins = np.clip(
            np.searchsorted(edges, values[quantity.name], "right") - 1, 0, len(edges) - 2
        )
        document["quantities"][quantity.name] = {
            "title": quantity.title,
            "unit": quantity.unit,
            "edges": [float(edge) for edge in edges],
            "requesters": {
                name: [
                    _bin(weight, shown.point == point, bins == i, departed, shown.verb)
                    for i in range(len(edges) - 1)
                ]
                for point, name in enumerate(REQUESTERS)
                if point > 0 and (shown.point == point).any()
            },
        }
    return document


def _bin(
    weight: NDArray[np.float64],
    here: NDArray[np.bool_],
    in_bin: NDArray[np.bool_],
    departed: NDArray[np.bool_],
    verb: NDArray[np.int64],
) -> dict[str, Any]:
    both = here & in_bin
    return {
        "decisions": _share(weight[here], in_bin[here]),
        "departed": _share(weight[both], departed[both]),
        "verbs": [
            _share(weight[both], departed[both] & (verb[both] == v)) for v in range(PRESERVE, 3)
        ],
    }


def _share(weight: NDArray[np.float64], chosen: NDArray[np.bool_]) -> float:
    total = float(weight.sum())
    return float(weight[chosen].sum()) / total if total > 0.0 else 0.0


def _edges(values: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    # Quantiles by weight, each once: a quantity that hardly varies has fewer bins.
    if not len(values):
        return np.zeros(0)
    order = np.argsort(values)
    cumulated = np.cumsum(weight[order]) / weight.sum()
    inner = [
        float(values[order][min(int(np.searchsorted(cumulated, k / NUM_BINS)), len(values) - 1)])
        for k in range(1, NUM_BINS)
    ]
    low, high = float(values.min()), float(values.max())
    edges = np.unique([low, *inner, high])
    # One bin for what hardly varies: the link against recomputing, on most machines.
    return edges if high - low > HARDLY * abs(high) else np.array([low, high])
