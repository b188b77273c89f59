"""Whether the plug-in can work in an engine, and what it needs to know of it.

Read in vLLM 0.32.0: ``config/vllm.py``, ``v1/kv_cache_interface.py`` (``KVCacheConfig``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from vllm import __version__ as VLLM_VERSION
from vllm.config import VllmConfig
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig
from vllm.v1.request import RequestStatus

from rlkv_service.adapters.vllm.engine_state import Engine
from rlkv_service.adapters.vllm.settings import Settings
from rlkv_service.adapters.vllm.tool_names import Tokenizer, ToolNames
from rlkv_service.adapters.vllm.versions import TESTED_VERSIONS, is_tested

#: A child of vLLM's own: what is said here is shown where vLLM's lines are.
LOGGER = logging.getLogger("vllm.rlkv")
GIB = 2**30
#: How a request ends whose session may go on.
NORMAL_ENDS = frozenset(
    status
    for status in RequestStatus
    if status.name in ("FINISHED_STOPPED", "FINISHED_LENGTH_CAPPED", "FINISHED_REPETITION")
)


def why_not(config: VllmConfig, caches: KVCacheConfig) -> str:
    """Why the plug-in cannot work in this engine; empty: it can."""
    if not is_tested(VLLM_VERSION):
        tested = ", ".join(TESTED_VERSIONS)
        return f"vLLM {VLLM_VERSION} was never tested with it, only {tested}"
    if not config.cache_config.enable_prefix_caching:
        return "prefix caching is off, there is nothing to keep"
    if len(caches.kv_cache_groups) != 1:
        num = len(caches.kv_cache_groups)
        return f"the model has {num} groups of KV caches, only one is supported"
    spec = caches.kv_cache_groups[0].kv_cache_spec
    specs = getattr(spec, "kv_cache_specs", {"": spec}).values()
    if not all(isinstance(each, FullAttentionSpec) for each in specs):
        return f"the model's KV caches are {type(spec).__name__}, only full attention is supported"
    parallel = config.parallel_config
    if parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1:
        return "context parallelism is not supported"
    if caches.hash_block_size not in (None, spec.block_size):
        return f"blocks of {spec.block_size} tokens are hashed by {caches.hash_block_size}"
    return ""


def slot_bytes(caches: KVCacheConfig) -> int:
    """Host bytes of a block of one worker's layers."""
    group = caches.kv_cache_groups[0]
    specs = getattr(group.kv_cache_spec, "kv_cache_specs", None)
    if specs is not None:
        return sum(int(spec.page_size_bytes) for spec in specs.values())
    return int(group.kv_cache_spec.page_size_bytes) * len(group.layer_names)


def num_slots(settings: Settings, config: VllmConfig, caches: KVCacheConfig) -> int:
    """Blocks for which the host has room, the same for every worker."""
    share = settings.host_gib * GIB / num_workers(config)
    return int(share // slot_bytes(caches))


def num_workers(config: VllmConfig) -> int:
    """Processes that carry out an order for copies."""
    return int(config.parallel_config.world_size)


def engine_of(settings: Settings, config: VllmConfig, caches: KVCacheConfig) -> Engine:
    """The engine as its configuration describes it."""
    scheduler = config.scheduler_config
    transfer, speculative = config.kv_transfer_config, config.speculative_config
    own_id = transfer.engine_id if transfer is not None else None
    return Engine(
        settings.engine_id or own_id or "vllm",
        int(caches.kv_cache_groups[0].kv_cache_spec.block_size),
        scheduler.max_num_seqs,
        num_slots(settings, config, caches),
        num_workers(config),
        config.model_config.max_model_len,
        scheduler.max_num_batched_tokens,
        int(scheduler.watermark * caches.num_blocks),
        speculative.num_speculative_tokens if speculative is not None else 0,
    )


def tool_names(settings: Settings, config: VllmConfig) -> ToolNames:
    """Reads tool calls with the model's own tokenizer, where it has one."""
    model = config.model_config
    load: Callable[[], Tokenizer] | None = None
    if not model.skip_tokenizer_init and settings.policy != "off":

        def load_tokenizer() -> Tokenizer:
            from vllm.tokenizers import cached_tokenizer_from_config

            tokenizer: Tokenizer = cached_tokenizer_from_config(model)
            return tokenizer

        load = load_tokenizer
    return ToolNames(load, settings.tool_call_token)
