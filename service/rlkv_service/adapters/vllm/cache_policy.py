"""Who leaves the host tier of vLLM's own ``OffloadingConnector`` first: who is back last.

    --kv-transfer-config '{"kv_connector": "OffloadingConnector", "kv_role": "kv_both",
        "kv_connector_extra_config": {"cpu_bytes_to_use": 8589934592, "offload_prompt_only": false,
        "eviction_policy": "RlkvCachePolicy",
        "cache_policy_module_path": "rlkv_service.adapters.vllm.cache_policy"}}'

Read in vLLM 0.32.0: ``v1/kv_offload/cpu/policies/base.py``, ``v1/kv_offload/cpu/manager.py`` (who
calls what when). Tested against these types; the tier itself starts only on GPUs.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vllm.v1.kv_offload.base import OffloadKey, ReqContext
from vllm.v1.kv_offload.cpu.policies.base import CachePolicy, ChunkStatus, order_request_keys

from rlkv_engine.errors import InputError
from rlkv_service.adapters.vllm.hints import NOTHING, Hint, read_hint
from rlkv_service.adapters.vllm.pause_means import PauseMeans
from rlkv_service.adapters.vllm.tool_names import HUMAN
from rlkv_service.adapters.vllm.victim_order import VictimOrder
from rlkv_service.schema import Verb

#: Sessions whose pauses are remembered.
MAX_SESSIONS = 65536


@dataclass(slots=True)
class _Pause:
    tool: str
    began_s: float | None  #: None: a request of it is under way
    is_over: bool = False  #: it ends, or was discarded: nobody comes back for it


class RlkvCachePolicy(CachePolicy):
    """Chunks belong to the session that has stored or used them last.

    A request names its session in ``kv_transfer_params.rlkv``; without that it is the one to whom
    most of its context belongs already. Its pause begins when a request is over, and ends when the
    next one stores anything, or is over.

    Args:
        cache_capacity: chunks.
        clock: seconds, monotonic.
    """

    def __init__(self, cache_capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(cache_capacity)
        self._clock = clock
        self._chunks: dict[OffloadKey, ChunkStatus] = {}
        self._evictable: set[OffloadKey] = set()
        self._order = VictimOrder()
        self._means = PauseMeans()
        self._pauses: OrderedDict[str, _Pause] = OrderedDict()
        self._next_owner = ""

    def get(self, key: OffloadKey) -> ChunkStatus | None:
        """A chunk; None: it is not here."""
        return self._chunks.get(key)

    def insert(self, key: OffloadKey, chunk: ChunkStatus) -> None:
        """A chunk is allocated, for the request of the last ``on_store_miss``."""
        self._chunks[key] = chunk
        self._order.add(self._next_owner, key)
        if chunk.ref_cnt == 0:
            self._evictable.add(key)

    def remove(self, key: OffloadKey) -> None:
        """A chunk could not be stored."""
        del self._chunks[key]
        self._evictable.discard(key)
        self._order.remove(key)

    def touch(self, keys: Iterable[OffloadKey], req_context: ReqContext) -> None:
        """Chunks are used by a request."""
        keys = list(keys)
        owner = self._owner(keys, req_context)
        for key in keys:
            if key in self._chunks:
                self._order.add(owner, key)

    def on_store_miss(self, keys: Iterable[OffloadKey], req_context: ReqContext) -> None:
        """Chunks are about to be stored for a request: its session is here."""
        self._next_owner = self._owner(list(keys), req_context)
        self._is_here(self._next_owner)

    def on_request_finished(
        self,
        key_groups: Sequence[Sequence[OffloadKey]],
        insertion_only_keys: set[OffloadKey],
        reused_keys: set[OffloadKey],
        req_context: ReqContext,
    ) -> None:
        """A request is over: its session pauses."""
        keys = order_request_keys(key_groups, req_context)
        owner = self._owner(keys, req_context)
        self._is_here(owner)
        hint = _hint(req_context)
        over = hint.ends or hint.verb == Verb.DISCARD
        self._pauses[owner] = _Pause(hint.tool or HUMAN, self._clock(), over)
        self._pauses.move_to_end(owner)
        if len(self._pauses) > MAX_SESSIONS:
            self._pauses.popitem(last=False)
        for key in keys:
            if key in self._chunks:
                self._order.add(owner, key)

    def evict(
        self, n: int, protected: set[OffloadKey]
    ) -> list[tuple[OffloadKey, ChunkStatus]] | None:
        """Takes exactly ``n`` chunks; None: there are not so many, and nothing has changed."""
        victims: list[OffloadKey] = []
        if n:
            for raw in self._order.victims(self._expected_back_s):
                key = OffloadKey(raw)
                if key in self._evictable and key not in protected:
                    victims.append(key)
                    if len(victims) == n:
                        break
        if len(victims) < n:
            return None
        gone = []
        for key in victims:
            gone.append((key, self._chunks[key]))
            self.remove(key)
        return gone

    def clear(self) -> None:
        """Nothing is here any more; what is known of pauses stays."""
        self._chunks.clear()
        self._evictable.clear()
        self._order = VictimOrder()

    def mark_evictable(self, key: OffloadKey) -> None:
        """Nobody copies from or to a chunk."""
        self._evictable.add(key)

    def mark_non_evictable(self, key: OffloadKey) -> None:
        """Somebody copies from a chunk."""
        self._evictable.discard(key)

    def _owner(self, keys: Sequence[OffloadKey], req_context: ReqContext) -> str:
        said = _hint(req_context).session
        if said:
            return said
        own = f"vllm-{req_context.req_id}"
        # The deepest chunk is the one that belongs to the fewest sessions.
        for key in reversed(keys):
            owner = self._order.owner_of(key)
            if owner not in (None, own):
                return str(owner)
        return own

    def _is_here(self, owner: str) -> None:
        pause = self._pauses.get(owner)
        if pause is not None and pause.began_s is not None:
            self._means.observe(pause.tool, self._clock() - pause.began_s)
            pause.began_s = None

    def _expected_back_s(self, owner: str) -> float:
        pause = self._pauses.get(owner)
        if pause is None or pause.began_s is None:
            return 0.0
        if pause.is_over:
            return float("inf")
        return self._means.remaining_s(pause.tool, self._clock() - pause.began_s)


def _hint(req_context: ReqContext) -> Hint:
    try:
        return read_hint(req_context.kv_transfer_params)
    except InputError:
        return NOTHING
