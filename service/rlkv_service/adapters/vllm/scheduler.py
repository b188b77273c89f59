"""Schedulers for stock vLLM that keep paused sessions' blocks on the device: no connector, no host.

    --scheduler-cls rlkv_service.adapters.vllm.scheduler.RlkvAsyncScheduler
    --additional-config '{"rlkv": {"policy": "rule"}}'

``RlkvAsyncScheduler`` is for engines that schedule asynchronously, as vLLM does on GPUs;
``RlkvScheduler`` for the others. What they do beside vLLM's own schedulers is the connector's:
the same keeper is told of the same events. Read in vLLM 0.32.0: ``v1/core/sched/scheduler.py``,
``v1/core/sched/async_scheduler.py``, ``config/scheduler.py`` (``get_scheduler_cls``). No test runs
``RlkvAsyncScheduler`` on a GPU.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

from rlkv_engine.errors import InputError
from rlkv_service.adapters.vllm.block_pool import VllmPool
from rlkv_service.adapters.vllm.guard import Guard
from rlkv_service.adapters.vllm.keeper import Keeper
from rlkv_service.adapters.vllm.making import make_keeper
from rlkv_service.adapters.vllm.settings import Settings
from rlkv_service.adapters.vllm.support import LOGGER, NORMAL_ENDS, why_not

#: Where the settings are, in ``--additional-config``.
CONFIG_KEY = "rlkv"


class _Keeping(Scheduler):
    """What both schedulers add."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rlkv: Keeper | None = None
        self._rlkv_guard = Guard(LOGGER, self._let_go)
        self._rlkv_guard.run(self._set_up)

    @property
    def keeper(self) -> Keeper | None:
        """What decides; None where the plug-in is off."""
        return self._rlkv if self._rlkv_guard.is_on else None

    @property
    def why_off(self) -> str:
        """Why the plug-in does nothing; empty: it works."""
        return self._rlkv_guard.why_off

    def add_request(self, request: Request) -> None:
        """A request has arrived."""
        is_known = request.request_id in self.requests
        super().add_request(request)
        if not is_known and (keeper := self.keeper) is not None:
            self._rlkv_guard.run(lambda: keeper.on_new_request(request))

    def _get_local_prefix_cache_hit(self, request: Request) -> tuple[KVCacheBlocks, int, int, bool]:
        found: tuple[KVCacheBlocks, int, int, bool] = super()._get_local_prefix_cache_hit(request)
        if (keeper := self.keeper) is not None:
            # The allocation follows.
            self._rlkv_guard.run(lambda: keeper.host_tokens_for(request, found[1]))
        return found

    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        if (keeper := self.keeper) is not None:
            self._rlkv_guard.run(lambda: self._tell_of_step(keeper, scheduler_output))
        super()._update_after_schedule(scheduler_output)

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> Any:
        """The step is over."""
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        if (keeper := self.keeper) is not None:
            self._rlkv_guard.run(lambda: keeper.on_step_done(None))
        return outputs

    def _free_request(self, request: Request, delay_free_blocks: bool = False) -> Any:
        if (keeper := self.keeper) is not None:
            self._rlkv_guard.run(lambda: self._tell_of_end(keeper, request))
        return super()._free_request(request, delay_free_blocks)

    def reset_prefix_cache(
        self, reset_running_requests: bool = False, reset_connector: bool = False
    ) -> bool:
        """Lets go of everything before the cache is emptied."""
        if (keeper := self.keeper) is not None:
            self._rlkv_guard.run(keeper.before_reset)
        return bool(super().reset_prefix_cache(reset_running_requests, reset_connector))

    def shutdown(self) -> None:
        """Lets go of everything, and says what was done."""
        if (keeper := self.keeper) is not None:
            self._rlkv_guard.run(lambda: LOGGER.info("rlkv has done: %s", keeper.counts()))
            self._rlkv_guard.run(keeper.close)
            self._rlkv = None
        super().shutdown()

    def _set_up(self) -> None:
        guard = self._rlkv_guard
        if why := why_not(self.vllm_config, self.kv_cache_config):
            guard.off(why)
            return
        transfer = self.vllm_config.kv_transfer_config
        if transfer is not None and transfer.has_connector("RlkvConnector"):
            guard.off("RlkvConnector does the same, one of the two is enough")
            return
        said = (self.vllm_config.additional_config or {}).get(CONFIG_KEY, {})
        try:
            if not isinstance(said, dict):
                raise InputError(f"{CONFIG_KEY} is {type(said).__name__}, not an object")
            settings = Settings.of(said)
            if settings.host_gib:
                raise InputError("host_gib needs RlkvConnector, a scheduler has no host tier")
        except InputError as error:
            guard.off(f"additional_config.{CONFIG_KEY}: {error}")
            return
        if settings.policy == "off":
            guard.off("policy is off")
            return
        pool = VllmPool(self.kv_cache_manager.block_pool)
        self._rlkv = make_keeper(settings, self.vllm_config, self.kv_cache_config, pool)

    def _let_go(self) -> None:
        if self._rlkv is not None:
            self._rlkv.abandon()

    def _tell_of_step(self, keeper: Keeper, output: SchedulerOutput) -> None:
        admitted = [new.req_id for new in output.scheduled_new_reqs]
        for request_id in (*admitted, *output.scheduled_cached_reqs.resumed_req_ids):
            keeper.on_allocated(self.requests[request_id], self._block_ids(request_id), 0)
        keeper.step(output.num_scheduled_tokens)

    def _tell_of_end(self, keeper: Keeper, request: Request) -> None:
        ids = self._block_ids(request.request_id)
        keeper.on_finished(request, ids, is_normal=request.status in NORMAL_ENDS)

    def _block_ids(self, request_id: str) -> list[int]:
        ids: tuple[list[int], ...] = self.kv_cache_manager.get_block_ids(request_id)
        return ids[0]


class RlkvScheduler(_Keeping):
    """vLLM's ``Scheduler``, with paused sessions' blocks kept."""


class RlkvAsyncScheduler(_Keeping, AsyncScheduler):
    """vLLM's ``AsyncScheduler``, with paused sessions' blocks kept."""
