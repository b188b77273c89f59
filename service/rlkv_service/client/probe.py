"""The question of which nothing depends: whether a sidecar answers at all.

A PING would reach Redis and no further. So a probe is a decision like any other, about a session
and a tool that are called ``rlkv-probe``: the log and the counters of the sidecar have it, once for
each time that a sidecar comes back.
"""

from __future__ import annotations

import numpy as np

from rlkv_service.client.rows import decision_rows
from rlkv_service.columns import DecisionRows

PROBE_NAME = "rlkv-probe"


def probe_rows() -> DecisionRows:
    """One row that any sidecar can answer."""
    return decision_rows(
        [PROBE_NAME],
        np.zeros(1, np.int64),
        [PROBE_NAME],
        block_size=16,
        num_device_blocks=1024,
        num_host_blocks=0,
        max_num_seqs=1,
        prefill_token_s=1e-4,
        point=0,
        free_blocks=1024,
        context_tokens=1,
    )
