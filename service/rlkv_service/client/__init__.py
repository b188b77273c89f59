"""Asks a sidecar what to do with the KV of paused sessions; needs msgspec, NumPy and a socket.

    from rlkv_service.client import Client, Outcome, decision_rows

    with Client("unix:///run/rlkv/valkey.sock", engine_id="engine-1") as client:
        rows = decision_rows(
            ["session-7"], [3], ["search"],
            block_size=16, num_device_blocks=4096, num_host_blocks=8192, max_num_seqs=64,
            prefill_token_s=8e-5, point=0, free_blocks=900, host_free_blocks=700,
            context_tokens=5200,
        )
        verdicts = client.decide(rows)  # within 5 ms, whatever happens
        print(verdicts.verb[0], verdicts.lease_s[0], verdicts.reason[0])
        client.report([Outcome(1, "engine-1", "session-7", 3, "search", 2.5, 5200)])

``Client`` waits for its answer, at most until a deadline. ``EngineClient`` is for an engine's loop:
rows are handed over at one step, verdicts collected at a later one, and nothing waits.
``AsyncioClient`` is for programs on asyncio. What is not answered in time, or not rightly, a local
rule answers, and ``counts`` says how often and why. docs/client.md has the whole story.
"""

from rlkv_service.client.asyncio_client import AsyncioClient
from rlkv_service.client.breaker import BreakerSettings
from rlkv_service.client.client import Client
from rlkv_service.client.counts import Counts
from rlkv_service.client.engine_client import EngineClient
from rlkv_service.client.rows import decision_rows
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.local_rule import LocalRule
from rlkv_service.schema import Outcome, Point, Reason, SessionEnd, Verb

__all__ = [
    "AsyncioClient",
    "BreakerSettings",
    "Client",
    "Counts",
    "DecisionRows",
    "EngineClient",
    "LocalRule",
    "Outcome",
    "Point",
    "Reason",
    "SessionEnd",
    "Verb",
    "VerdictRows",
    "decision_rows",
]
