"""What ``kv_connector_extra_config`` of ``--kv-transfer-config`` says to the plug-in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from rlkv_engine.errors import InputError
from rlkv_service.client.engine_client import DEFAULT_ENGINE_DEADLINE_MS
from rlkv_service.redis_keys import DEFAULT_NAMESPACE
from rlkv_service.redis_url import RedisURL
from rlkv_service.schema import MAX_NAME_LENGTH

#: ``off`` is what vLLM does by itself.
POLICIES = ("sidecar", "rule", "preserve", "swap", "discard", "ttl", "off")
#: No lease is longer, whoever asks for it, seconds.
MAX_LEASE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Options of the plug-in.

    Args:
        policy: who decides: the sidecar behind ``redis``, the local rule, always the same verb,
            or PRESERVE for ``ttl_s``.
        redis: URL of the server between engine and sidecar.
        namespace: of its keys.
        engine_id: the name under which this engine is known; vLLM's own without it.
        profile_id: which machine and model this is, where a sidecar serves several.
        host_gib: host memory for swapped blocks, of all workers together.
        max_preserved_share: of the device pool that paused sessions may hold.
        ttl_s: lease of the policies ``ttl`` and ``preserve``.
        prefill_token_s: time to compute a token of a prompt; measured where it is not given.
        swap_out_block_s: time to copy a block to the host; measured where it is not given.
        swap_in_block_s: time to copy a block to the device; measured where it is not given.
        tool_call_token: what begins a tool call in the model's answer.
        deadline_ms: an answer of the sidecar that comes later is not used, milliseconds.
    """

    policy: str = "rule"
    redis: str = ""
    namespace: str = DEFAULT_NAMESPACE
    engine_id: str = ""
    profile_id: str = ""
    host_gib: float = 0.0
    max_preserved_share: float = 0.9
    ttl_s: float = 60.0
    prefill_token_s: float | None = None
    swap_out_block_s: float | None = None
    swap_in_block_s: float | None = None
    tool_call_token: str = "<tool_call>"
    deadline_ms: float = DEFAULT_ENGINE_DEADLINE_MS

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise InputError(f"policy is {self.policy!r}, none of {', '.join(POLICIES)}")
        _check("host_gib", self.host_gib, 0.0, 2.0**20)
        _check("max_preserved_share", self.max_preserved_share, 0.0, 1.0)
        _check("deadline_ms", self.deadline_ms, 0.0, 1e6)
        _check("ttl_s", self.ttl_s, 0.0, MAX_LEASE_S)
        for name in ("prefill_token_s", "swap_out_block_s", "swap_in_block_s"):
            if (cost_s := getattr(self, name)) is not None:
                _check(name, cost_s, 1e-12, 1e6)
        for name in ("namespace", "engine_id", "profile_id"):
            if len(getattr(self, name)) > MAX_NAME_LENGTH:
                raise InputError(f"{name} is longer than {MAX_NAME_LENGTH} characters")
        if self.policy == "sidecar":
            if not self.redis:
                raise InputError("policy sidecar needs redis, the URL of a server")
            RedisURL.parse(self.redis)
        if self.policy == "swap" and not self.host_gib:
            raise InputError("policy swap needs host_gib, it is 0")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Settings from a configuration as vLLM has parsed it.

        Raises:
            InputError: a key is unknown or its value impossible; the text names it.
        """
        kinds = {field.name: str(field.type) for field in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in config.items():
            if key not in kinds:
                raise InputError(f"there is no setting {key!r}, only {', '.join(kinds)}")
            if kinds[key] == "str":
                if not isinstance(value, str):
                    raise InputError(f"{key} is {value!r}, not text")
            elif value is None and "None" in kinds[key]:
                pass
            elif isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"{key} is {value!r}, not a number")
            values[key] = value
        if "policy" not in values and values.get("redis"):
            values["policy"] = "sidecar"
        return cls(**values)


def _check(name: str, value: float, least: float, most: float) -> None:
    if not (math.isfinite(value) and least <= value <= most):
        raise InputError(f"{name} is {value:g}, not within {least:g} to {most:g}")
