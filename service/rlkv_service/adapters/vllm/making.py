"""Makes what decides, with what it asks and what it reads names with."""

from __future__ import annotations

from vllm.config import VllmConfig
from vllm.v1.kv_cache_interface import KVCacheConfig

from rlkv_service.adapters.vllm.keeper import Keeper
from rlkv_service.adapters.vllm.pool import Pool
from rlkv_service.adapters.vllm.settings import Settings
from rlkv_service.adapters.vllm.support import LOGGER, engine_of, tool_names
from rlkv_service.client.engine_client import EngineClient


def make_keeper(
    settings: Settings, config: VllmConfig, caches: KVCacheConfig, pool: Pool
) -> Keeper:
    """What decides in an engine, and says in the log that it does.

    Raises:
        InputError: the sidecar's address cannot be used.
    """
    engine = engine_of(settings, config, caches)
    client = None
    if settings.policy == "sidecar":
        client = EngineClient(
            settings.redis,
            engine_id=engine.engine_id,
            namespace=settings.namespace,
            profile_id=settings.profile_id,
            deadline_ms=settings.deadline_ms,
        )
    keeper = Keeper(settings, engine, pool, client, tool_names(settings, config))
    LOGGER.info(
        "rlkv decides by policy %s: %d device blocks of %d tokens, %d host blocks",
        settings.policy,
        pool.num_blocks,
        engine.block_size,
        engine.num_host_blocks,
    )
    return keeper
