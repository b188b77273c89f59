"""The environment's id in Gymnasium's registry; looked up lazily, so that this stays cheap."""

from __future__ import annotations

import gymnasium

ENV_ID = "rlkv/KVMemory-v0"


def register_envs() -> None:
    """Registers ``rlkv/KVMemory-v0`` once; ``import rlkv_envs`` does it."""
    if ENV_ID in gymnasium.registry:
        return
    gymnasium.register(
        id=ENV_ID,
        entry_point="rlkv_envs.kv_memory:KVMemoryEnv",
        vector_entry_point="rlkv_envs.vector:KVMemoryVectorEnv",
    )
