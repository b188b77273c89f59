"""One line that says how a sidecar is doing, for whoever watches its terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rlkv_service.sidecar.counters import Counts
from rlkv_service.sidecar.service import DecisionService

_EVERY_S = 1.0


@contextmanager
def show_status(service: DecisionService) -> Iterator[None]:
    """Shows the line on standard error until the end of the block."""
    from rich.console import Console

    ended = threading.Event()
    with Console(stderr=True).status("no decisions yet") as line:

        def keep_up() -> None:
            before, before_s = service.counters.counts(), time.monotonic()
            while not ended.wait(_EVERY_S):
                counts, now_s = service.counters.counts(), time.monotonic()
                line.update(status_text(service.policy.version, before, counts, now_s - before_s))
                before, before_s = counts, now_s

        thread = threading.Thread(target=keep_up, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def status_text(version: str, before: Counts, counts: Counts, seconds: float) -> str:
    """The line, from the counts at two moments."""
    new = {kind: num - before.decisions[kind] for kind, num in counts.decisions.items()}
    num = sum(new.values())
    by_policy = sum(each for (_, who), each in new.items() if who == "policy")
    parts = [
        version,
        f"{num / seconds:,.0f} decisions/s",
        f"{by_policy / num:.0%} by the policy" if num else "",
        f"half of the requests within {_micros(counts)}" if counts.decision_seconds.count else "",
        f"{counts.requests['late']:,} late" if counts.requests["late"] else "",
        f"{counts.queue_requests:,} waiting" if counts.queue_requests else "",
        f"{counts.log_failures:,} not logged" if counts.log_failures else "",
    ]
    return " · ".join(part for part in parts if part)


def _micros(counts: Counts) -> str:
    return f"{1e6 * counts.decision_seconds.quantile(0.5):,.0f} µs"
