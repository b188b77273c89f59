"""Every policy in turn on the real engine: the same sessions, the same tokens, other latencies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from rlkv.asked_engine import AskedRun, play_asked, rehearse
from rlkv.provenance import command, commit, device_name, machine
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.real_engine import RealRun, play_policy
from rlkv_agents.rules import make_rule
from rlkv_engine.paged.clock import WallClock
from rlkv_engine.trace import Trace
from rlkv_envs.metrics import distribution
from rlkv_envs.scenario import Scenario
from rlkv_service.asking.ahead import asked_share
from rlkv_service.redis_url import RedisURL

if TYPE_CHECKING:
    from rlkv_engine.paged.loading import LoadedModel

#: ``on_progress(policy, finished sessions, sessions)``.
OnProgress = Callable[[str, int, int], None]
_REHEARSED_SESSIONS = 4
#: The policy that a sidecar is.
SIDECAR = "sidecar"


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Who is asked, and whose rule the engine has meanwhile."""

    url: RedisURL
    policy: AgentPolicy


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What every policy did with one trace on one model."""

    scenario: Scenario
    seed: int
    model: str
    device: str
    runs: dict[str, RealRun]
    asked: AskedRun | None = None  #: that of the sidecar, which is among the runs too

    @property
    def same_tokens(self) -> bool:
        """Whether every session generated the same tokens under every policy."""
        digests = [run.output_digests for run in self.runs.values()]
        return all(other == digests[0] for other in digests)

    @property
    def other_tokens(self) -> list[str]:
        """Policies under which a session generated other tokens than under the first."""
        first, *_ = self.runs.values()
        return [n for n, run in self.runs.items() if run.output_digests != first.output_digests]

    def record(self) -> dict[str, Any]:
        """The run as JSON values."""
        profile = self.scenario.profile
        return {
            "model": self.model,
            "device": self.device,
            "workload": self.scenario.workload.name,
            "num_sessions": self.scenario.num_sessions,
            "rate_per_s": self.scenario.rate_per_s,
            "seed": self.seed,
            "num_device_blocks": profile.num_device_blocks,
            "num_host_blocks": profile.num_host_blocks,
            "block_size": profile.block_size,
            "policies": {name: _figures(run) for name, run in self.runs.items()},
            **({"sidecar": _decided(self.asked)} if self.asked is not None else {}),
            "same_tokens": self.same_tokens,
            "commit": commit(),
            "command": command(),
            "machine": machine(),
        }


def demonstrate(
    loaded: LoadedModel,
    scenario: Scenario,
    policies: Sequence[AgentPolicy],
    seed: int,
    on_progress: OnProgress = lambda *_: None,
    sidecar: Sidecar | None = None,
) -> Demonstration:
    """Runs the held-out trace of a seed in real time, under one policy after the other.

    With a ``sidecar`` once more at last, its decisions asked for ahead over Redis.
    """
    trace = scenario.trace(seed, "test")
    _rehearse(loaded, scenario, trace)
    if sidecar is not None:
        rehearse(scenario, trace)
    runs = {}
    for policy in policies:
        report = partial(_report, on_progress, policy.name, trace.num_sessions)
        runs[policy.name] = play_policy(loaded, scenario, policy, trace, WallClock(), report)
    asked = None
    if sidecar is not None:
        report = partial(_report, on_progress, SIDECAR, trace.num_sessions)
        asked = play_asked(
            loaded, scenario, sidecar.policy, trace, sidecar.url, WallClock(), report
        )
        runs[SIDECAR] = asked.run
    device = f"{device_name(loaded.model.device)}, {loaded.model.dtype}"
    return Demonstration(scenario, seed, loaded.name, device, runs, asked)


def _rehearse(loaded: LoadedModel, scenario: Scenario, trace: Trace) -> None:
    # Unmeasured, and without pauses that take time: what is compiled at its first use is, then.
    few = trace.select(np.arange(min(_REHEARSED_SESSIONS, trace.num_sessions)))
    house = AgentPolicy("house", make_rule("house"))
    play_policy(loaded, scenario, house, few, _LeapingClock())


class _LeapingClock:
    """Time passes whenever somebody looks, and waiting takes none."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def now_s(self) -> float:
        self._now_s += 1e-3
        return self._now_s

    def spend(self, expected_s: float) -> None:
        pass

    def wait_until(self, until_s: float) -> None:
        self._now_s = max(self._now_s, until_s)


def _report(on_progress: OnProgress, policy: str, total: int, finished: int) -> None:
    on_progress(policy, finished, total)


def _decided(asked: AskedRun) -> dict[str, Any]:
    return {
        "answered_share": asked_share(asked.reasons),
        "answered_share_at_calls": asked_share(asked.at_calls),
        "answered_share_when_short": asked_share(asked.reasons - asked.at_calls),
        "decisions": {reason.name.lower(): num for reason, num in sorted(asked.reasons.items())},
        "num_outcomes": asked.num_outcomes,
    }


def _figures(run: RealRun) -> dict[str, Any]:
    result = run.result
    return {
        "normalized_latency_s": distribution(result.normalized_latency_s),
        "resume_latency_s": distribution(result.resume_latency_s),
        "recompute_ratio": result.recompute_ratio,
        "waste_ratio": result.waste,
        "num_preemptions": result.num_preemptions,
        "blocks_out": run.blocks_out,
        "blocks_in": run.blocks_in,
        "duration_s": result.duration_s,
    }
