"""A KV connector for stock vLLM that keeps the KV of paused sessions as somebody decides.

    --kv-transfer-config '{"kv_connector": "RlkvConnector", "kv_role": "kv_both",
                           "kv_connector_extra_config": {"policy": "rule", "host_gib": 8}}'

Each method is a hook of ``KVConnectorBase_V1``; read in vLLM 0.32.0:
``distributed/kv_transfer/kv_connector/v1/base.py``, ``v1/core/sched/scheduler.py`` (who calls what
when), ``v1/worker/kv_connector_model_runner_mixin.py``, ``v1/worker/gpu/kv_connector.py``.

  * A paused session's blocks are held by a reference, with a lease; ``get_num_new_matched_tokens``,
    which is called right before an allocation, takes references back where blocks are missing, and
    so does ``build_connector_meta`` before running requests grow.
  * Copies to the host hold their sources until they are done. Who gives up blocks while they are
    not copied yet has them copied in ``handle_preemptions``, before the step writes anything.
  * What the host has is copied in before the step that needs it runs. A copy that fails, or finds
    another block in its place, is reported as a load error, and vLLM computes these blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
)
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import KVCacheConfig, group_kernel_blocks
from vllm.v1.metrics.cache_hit_source import CacheHitSource
from vllm.v1.outputs import KVConnectorOutput
from vllm.v1.request import Request

from rlkv_engine.errors import InputError
from rlkv_service.adapters.vllm.block_pool import VllmPool, yield_to_reset
from rlkv_service.adapters.vllm.copy_orders import CopyOrders, CopyReport
from rlkv_service.adapters.vllm.guard import Guard
from rlkv_service.adapters.vllm.host_copies import HostCopies
from rlkv_service.adapters.vllm.keeper import Keeper
from rlkv_service.adapters.vllm.making import make_keeper
from rlkv_service.adapters.vllm.metrics import (
    SPENT_US,
    RlkvPromMetrics,
    RlkvStats,
    StatsDeltas,
)
from rlkv_service.adapters.vllm.settings import Settings
from rlkv_service.adapters.vllm.support import LOGGER, NORMAL_ENDS, num_slots, why_not


@dataclass
class RlkvMetadata(KVConnectorMetadata):
    """From the scheduler to its workers, with every step."""

    orders: CopyOrders = field(default_factory=CopyOrders)


@dataclass
class RlkvWorkerMetadata(KVConnectorWorkerMetadata):
    """From workers to the scheduler, after a step in which a copy has ended."""

    report: CopyReport

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        """Another worker's."""
        assert isinstance(other, RlkvWorkerMetadata)
        self.report.add(other.report)
        return self


class RlkvConnector(KVConnectorBase_V1, SupportsHMA):
    """The scheduler's part and a worker's, one of them in each instance."""

    _cache_hit_source = CacheHitSource.HOST

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._guard = Guard(LOGGER, self._let_go)
        self._settings = Settings(policy="off")
        self._keeper: Keeper | None = None
        self._copies: HostCopies | None = None
        #: Blocks that requests have on the device, while their memory is being allocated.
        self._num_local: dict[str, int] = {}
        #: Blocks that this step must load: vLLM takes them for computed already.
        self._loading: list[int] = []
        self._lost: set[int] = set()
        self._refused = CopyReport()
        self._deltas = StatsDeltas()
        self._has_said = False
        self._guard.run(self._set_up)

    # Both.

    @property
    def requires_kv_delivery(self) -> bool:
        """A copy that is not made is a block to be computed, no more."""
        return False

    @property
    def keeper(self) -> Keeper | None:
        """Of the scheduler's part; None where the plug-in is off."""
        return self._keeper if self._guard.is_on else None

    @property
    def why_off(self) -> str:
        """Why the plug-in does nothing; empty: it works."""
        return self._guard.why_off

    @property
    def copies(self) -> HostCopies | None:
        """Of a worker's part; None without a host tier."""
        return self._copies

    def shutdown(self) -> None:
        """Lets go of everything, and says what was done."""
        keeper = self._keeper
        if keeper is not None:
            if self._guard.is_on:
                self._guard.run(lambda: LOGGER.info("rlkv has done: %s", keeper.counts()))
            self._keeper = None
            self._guard.run(keeper.close)

    # The scheduler's part.

    def bind_gpu_block_pool(self, gpu_block_pool: BlockPool) -> None:
        """The pool is there: the plug-in begins."""

        def begin() -> None:
            keeper = make_keeper(
                self._settings, self._vllm_config, self._kv_cache_config, VllmPool(gpu_block_pool)
            )
            yield_to_reset(
                gpu_block_pool,
                lambda: self._guard.run(keeper.before_reset),
                lambda: self._guard.run(keeper.after_reset),
            )
            self._keeper = keeper

        self._guard.run(begin)

    def on_new_request(self, request: Request) -> None:
        """A request has arrived."""
        if (keeper := self.keeper) is not None:
            self._guard.run(lambda: keeper.on_new_request(request))

    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """Tokens that the host has; makes room for the allocation that follows."""
        if (keeper := self.keeper) is None:
            return 0, False
        self._num_local[request.request_id] = num_computed_tokens // self._block_size
        num = self._guard.call(lambda: keeper.host_tokens_for(request, num_computed_tokens), 0)
        return num, False

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        """The allocation is made."""
        ids = blocks.get_block_ids()[0]
        first = self._num_local.pop(request.request_id, 0)
        self._loading += ids[first : first + num_external_tokens // self._block_size]
        if (keeper := self.keeper) is not None:
            self._guard.run(lambda: keeper.on_allocated(request, ids, num_external_tokens))

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        """The step is planned."""
        orders: CopyOrders | None = None
        if (keeper := self.keeper) is not None:
            orders = self._guard.call(
                lambda: keeper.step(scheduler_output.num_scheduled_tokens), None
            )
        if orders is None:
            # Whatever went wrong: nobody loads what was promised, so it must not count as loaded.
            orders = CopyOrders(lost_block_ids=self._loading)
        self._loading = []
        return RlkvMetadata(orders)

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        """The step is over."""
        if (keeper := self.keeper) is not None:
            said = connector_output.kv_connector_worker_meta
            report = said.report if isinstance(said, RlkvWorkerMetadata) else None
            self._guard.run(lambda: keeper.on_step_done(report))

    def request_finished(
        self, request: Request, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """A request is over; its blocks are freed after this."""
        self._num_local.pop(request.request_id, None)
        if (keeper := self.keeper) is not None:
            is_normal = request.status in NORMAL_ENDS
            self._guard.call(
                lambda: keeper.on_finished(request, block_ids, is_normal=is_normal), None
            )
        return False, None

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """The same; there is one group, or the plug-in is off."""
        return self.request_finished(request, block_ids[0] if block_ids else [])

    def has_pending_block_frees(self) -> bool:
        """A running request could not grow: what is held goes before anybody is preempted."""
        if (keeper := self.keeper) is None:
            return False
        return self._guard.call(keeper.free_some, False)

    def has_pending_push_work(self) -> bool:
        """Whether an idle engine should go on: copies are under way."""
        if (keeper := self.keeper) is None:
            return False
        return self._guard.call(lambda: keeper.has_work, False)

    def reset_cache(self) -> bool | None:
        """The host tier is emptied, too."""
        if (keeper := self.keeper) is not None:

            def reset() -> None:
                keeper.before_reset()
                keeper.after_reset()

            self._guard.run(reset)
        return True

    def get_kv_connector_stats(self) -> KVConnectorStats | None:
        """What has changed since the last call."""
        if (keeper := self.keeper) is None:
            return None
        spent = {SPENT_US: self._guard.spent_ns // 1000}
        return self._guard.call(
            lambda: self._deltas.since(keeper.counts() | spent, keeper.gauges()), None
        )

    @classmethod
    def build_kv_connector_stats(
        cls, data: dict[str, Any] | None = None
    ) -> KVConnectorStats | None:
        """Stats as they come from another process."""
        return RlkvStats(data)

    @classmethod
    def build_prom_metrics(cls, *args: Any, **kwargs: Any) -> KVConnectorPromMetrics | None:
        """Of ``/metrics``."""
        return RlkvPromMetrics(*args, **kwargs)

    # A worker's part.

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """The caches are there: the host tier gets its memory."""
        self._guard.run(lambda: self._make_copies(kv_caches))

    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        """Before anything of this step is written."""
        if (copies := self._copies) is not None:
            orders = _orders(kv_connector_metadata)
            self._guard.run(lambda: copies.before_forward(orders))

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Before the model runs, if it needs what is loaded."""
        orders = _orders(self._get_connector_metadata())
        self._lost.update(orders.lost_block_ids)
        copies = self._copies
        if copies is None or not self._guard.run(partial(copies.load, orders)):
            for order in orders.loads:
                self._lost.update(order.block_ids)
                self._refused.refuse(order)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Loads are whole when the model runs."""

    def save_kv_layer(self, *args: Any, **kwargs: Any) -> None:
        """Blocks are stored when their session pauses, not while they are computed."""

    def wait_for_save(self) -> None:
        """The model runs, or has run."""
        orders = _orders(self._get_connector_metadata())
        copies = self._copies
        if copies is None or not self._guard.run(partial(copies.store, orders)):
            # Who waits for them would wait for ever.
            for order in (*orders.urgent_stores, *orders.stores):
                self._refused.refuse(order)

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks that are to be computed after all."""
        lost, self._lost = self._lost, set()
        return lost | self._copies.take_lost() if self._copies is not None else lost

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        """What was copied."""
        report, self._refused = self._refused, CopyReport()
        if (copies := self._copies) is not None:
            report.add(self._guard.call(copies.take_report, CopyReport()))
        return RlkvWorkerMetadata(report) if report else None

    # Inside.

    @property
    def _block_size(self) -> int:
        return int(self._kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size)

    def _set_up(self) -> None:
        if why := why_not(self._vllm_config, self._kv_cache_config):
            self._guard.off(why)
            return
        try:
            self._settings = Settings.of(self._kv_transfer_config.kv_connector_extra_config)
        except InputError as error:
            self._guard.off(f"kv_connector_extra_config: {error}")
            return
        if self._settings.policy == "off":
            self._guard.off("policy is off")
            return
        if self._kv_transfer_config.kv_load_failure_policy != "recompute":
            # A block that cannot be loaded is a miss like any other.
            self._kv_transfer_config.kv_load_failure_policy = "recompute"

    def _make_copies(self, kv_caches: dict[str, torch.Tensor]) -> None:
        slots = num_slots(self._settings, self._vllm_config, self._kv_cache_config)
        if slots:
            views = _views(kv_caches, self._kv_cache_config)
            self._copies = HostCopies(views, slots, self._say)

    def _say(self, error: Exception) -> None:
        if not self._has_said:
            self._has_said = True
            LOGGER.warning("rlkv: a copy has failed, its blocks are computed again: %s", error)

    def _let_go(self) -> None:
        if self._keeper is not None:
            self._keeper.abandon()


def _orders(metadata: KVConnectorMetadata) -> CopyOrders:
    return metadata.orders if isinstance(metadata, RlkvMetadata) else CopyOrders()


def _views(kv_caches: dict[str, torch.Tensor], config: KVCacheConfig) -> list[torch.Tensor]:
    """Each layer's cache as ``[num_blocks, block_bytes]``; layers that share memory once.

    As ``OffloadingConnectorWorker.register_kv_caches`` of vLLM makes them
    (``distributed/kv_transfer/kv_connector/v1/offloading/worker.py``).
    """
    group = config.kv_cache_groups[0]
    specs = getattr(group.kv_cache_spec, "kv_cache_specs", {})
    views: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}
    for layer in group.layer_names:
        cache = group_kernel_blocks(kv_caches[layer], config.num_blocks)
        page = specs.get(layer, group.kv_cache_spec).page_size_bytes
        size = cache.element_size()
        view = torch.tensor([], dtype=torch.int8, device=cache.device).set_(
            cache.untyped_storage(),
            cache.storage_offset() * size,
            (config.num_blocks, page),
            (cache.stride(0) * size, 1),
        )
        views.setdefault((view.data_ptr(), view.stride()), view)
    return list(views.values())
