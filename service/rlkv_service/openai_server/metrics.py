"""What Prometheus reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

#: Seconds; a tiny model on a small machine and a large one in a long queue both lie within.
_LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_PAUSE_S = (0.01, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """The engine between two steps."""

    running_sessions: int
    paused_sessions: int
    device_blocks: int
    free_device_blocks: int
    host_blocks: int
    free_host_blocks: int


class Metrics:
    """Counters and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own: Any = {"namespace": "rlkv_engine", "registry": self._registry}
        self.turns = Counter("turns_total", "Answers, by why they ended.", ["reason"], **own)
        self.refusals = Counter(
            "refused_requests_total", "Requests refused, by the error's code.", ["code"], **own
        )
        self.begun_sessions = Counter("begun_sessions_total", "Sessions that began.", **own)
        self.ended_sessions = Counter(
            "ended_sessions_total", "Sessions that ended, by why.", ["reason"], **own
        )
        self.resumes = Counter(
            "resumes_total",
            "Turns of paused sessions, by how these were found.",
            ["by"],
            **own,
        )
        self.prompt_tokens = Counter("prompt_tokens_total", "Tokens of prompts.", **own)
        self.cached_tokens = Counter(
            "cached_prompt_tokens_total", "Those that did not have to be computed.", **own
        )
        self.generated_tokens = Counter("generated_tokens_total", "Tokens of answers.", **own)
        self.first_token_s = Histogram(
            "first_token_seconds",
            "From a request to its first token.",
            buckets=_LATENCY_S,
            **own,
        )
        self.token_s = Histogram(
            "token_seconds", "From one token to the next.", buckets=_LATENCY_S, **own
        )
        self.pause_s = Histogram(
            "pause_seconds", "Pauses that a next turn ended.", buckets=_PAUSE_S, **own
        )
        self._sessions = Gauge("sessions", "Sessions, by what they do.", ["state"], **own)
        self._blocks = Gauge("blocks", "Blocks of a pool.", ["tier"], **own)
        self._used = Gauge(
            "used_blocks_ratio", "Blocks of a pool that are not free.", ["tier"], **own
        )

    def text(self, figures: EngineFigures) -> bytes:
        """Everything in Prometheus' text format."""
        self._sessions.labels("running").set(figures.running_sessions)
        self._sessions.labels("paused").set(figures.paused_sessions)
        tiers = (
            ("device", figures.device_blocks, figures.free_device_blocks),
            ("host", figures.host_blocks, figures.free_host_blocks),
        )
        for tier, blocks, free in tiers:
            self._blocks.labels(tier).set(blocks)
            self._used.labels(tier).set(1 - free / blocks if blocks else 0.0)
        return generate_latest(self._registry)
