"""What to do with the KV of a pause, as ways to start vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: The connector that the plug-in registers.
CONNECTOR = "RlkvConnector"
#: vLLM without a connector: what is not in use is taken, the least recently used first.
STOCK = "lru"
#: In the order of tables and pictures.
POLICIES: Mapping[str, str] = {
    STOCK: "vLLM as it is: LRU",
    "preserve": "always preserve",
    "ttl": "preserve for a fixed time",
    "rule": "the local rule",
    "sidecar": "the learned bundle, asked over Redis",
}


def connector(policy: str, **settings: Any) -> dict[str, Any]:
    """``--kv-transfer-config`` of the plug-in with a policy and further settings of it."""
    return {
        "kv_connector": CONNECTOR,
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"policy": policy, **settings},
    }
