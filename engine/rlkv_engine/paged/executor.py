"""Carries out what the scheduler plans: forward passes, copies, and the names of blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from rlkv_engine import state as S
from rlkv_engine.paged.arena import Arena
from rlkv_engine.paged.batch_builder import Batch, build_batch, chunks_of
from rlkv_engine.paged.block_tables import BlockTables
from rlkv_engine.paged.context import Context
from rlkv_engine.paged.copies import Copy, CopyEngine
from rlkv_engine.paged.sampling import choose_tokens
from rlkv_engine.stepped import IterationPlan, SteppedEngine

if TYPE_CHECKING:
    from rlkv_engine.paged.llama import Llama


@dataclass(frozen=True, slots=True)
class Emission:
    """A token came out of a slot."""

    slot: int
    context: Context
    token: int


class Executor:
    """A model and two tiers of KV that do what a ``SteppedEngine`` plans.

    One iteration is ``follow`` (after ``plan_memory``), ``carry_out`` (after ``start_iteration``)
    and ``follow`` again (after ``end_iteration``). A context's block is written by nobody but its
    slot while the slot has it alone; a shared one is written by nobody.

    Args:
        model: the model, on the device.
        arena: KV of both tiers, as many blocks as the engine's profile says.
        copies: makes the copies.
        engine: whose plans are carried out.
        context_of: the context in a slot.
        max_tokens: longest context.
        prefix_caching: whether a session that is admitted uses what others have computed.
    """

    def __init__(
        self,
        model: Llama,
        arena: Arena,
        copies: CopyEngine,
        engine: SteppedEngine,
        context_of: Callable[[int], Context],
        *,
        max_tokens: int,
        prefix_caching: bool,
    ) -> None:
        self._model, self._arena, self._copies, self._engine = model, arena, copies, engine
        self._context_of = context_of
        self._block_size = engine.profile.block_size
        self._prefix_caching = prefix_caching
        self.num_failed_copies = 0
        self.tables = BlockTables(
            arena.device.shape[2], arena.host.shape[0], -(-max_tokens // self._block_size)
        )

    def follow(self) -> None:
        """Give blocks to the slots as the scheduler counts them; nothing may be under way."""
        self.tables.follow(self._engine.live_state, self._engine.first_sid)

    def use_prefixes(self) -> None:
        """Slots that were just admitted skip what is still known of their context."""
        if not self._prefix_caching:
            return
        st = self._engine.live_state
        log = self._engine.log
        admitted = set(log[log[:, 2] == S.LOG_ADMIT, 3].astype(int).tolist())
        if not admitted:
            return
        prefilling = st.slot[S.PREFILLING, : st.n[S.NUM_RUN] - st.n[S.NUM_DECODING]]
        for slot in prefilling.tolist():
            if int(st.slot[S.SID, slot]) in admitted:
                self._use_prefix(st, slot)

    @torch.inference_mode()
    def carry_out(self, plan: IterationPlan) -> list[Emission]:
        """Compute the batch, make the copies beside it; the tokens that came out."""
        st = self._engine.live_state
        self._copies.start(self._plan_copies(st, plan))
        decodes, prefills = chunks_of(st, plan, self._context_of)
        emissions: list[Emission] = []
        try:
            if decodes or prefills:
                for chunk in decodes + prefills:
                    self._own(chunk.slot, chunk.start, chunk.end)
                batch = build_batch(
                    decodes, prefills, self.tables, self._block_size, self._arena.device.device
                )
                emissions = self._forward(batch)
        finally:
            failed = self._copies.wait()
        for copy in failed:
            self.num_failed_copies += 1
            block = min(copy.positions)
            valid = int(st.slot[S.COMPUTED, copy.slot])
            # What came in from this block on is not there; what went out is nowhere.
            self._engine.drop_copy(copy.slot, valid if copy.out else block * self._block_size)
        return emissions

    def check_integrity(self) -> None:
        """Raises ``IntegrityError`` where tables, pools and the scheduler disagree."""
        self._engine.check_integrity()
        self.tables.check_integrity(self._engine.live_state)

    def _forward(self, batch: Batch) -> list[Emission]:
        hidden = self._model(batch.input_ids, batch.positions, self._arena.device, batch.attention)
        for chunk in batch.prefills:
            chunk.context.computed_tokens += chunk.end - chunk.start
        if self._prefix_caching:
            for chunk in batch.decodes + batch.prefills:
                self._remember(chunk.slot, chunk.context, chunk.start, chunk.end)
        if not batch.emits:
            # No token is waited for; without this the next iteration would seem to take its time.
            self._arena.synchronize()
            return []
        logits = self._model.logits(hidden[batch.logit_rows])
        tokens = choose_tokens(logits, [chunk.context.sampling for chunk in batch.emits])
        emissions = []
        for chunk, token in zip(batch.emits, tokens, strict=True):
            chunk.context.tokens.append(token)
            emissions.append(Emission(chunk.slot, chunk.context, token))
        return emissions

    def _plan_copies(self, st: S.State, plan: IterationPlan) -> list[Copy]:
        loads, outs = list(plan.rows(S.LOG_LOAD)), list(plan.rows(S.LOG_COPY_OUT))
        if not loads and not outs:
            return []
        live = np.flatnonzero(st.slot[S.PHASE] != S.EMPTY)
        slot_of = dict(zip(st.slot[S.SID, live].tolist(), live.tolist(), strict=True))
        copies = []
        for sid, moved in loads:
            slot = slot_of[sid]
            end = int(st.slot[S.COMPUTED, slot]) // self._block_size
            positions = np.arange(end - moved, end)
            for position in positions.tolist():
                self._own(slot, position * self._block_size, (position + 1) * self._block_size)
            copies.append(self._copy(slot, False, positions))
        for sid in dict.fromkeys(sid for sid, moved in outs if moved):
            slot = slot_of[sid]
            low, high = int(st.slot[S.HOST_LO, slot]), int(st.slot[S.HOST_HI, slot])
            copies.append(self._copy(slot, True, self.tables.grow_host(slot, low, high)))
        return copies

    def _copy(self, slot: int, out: bool, positions: NDArray[np.int64]) -> Copy:
        device = self.tables.device[slot, positions].tolist()
        host = self.tables.host[slot, positions].tolist()
        return Copy(slot, out, positions.tolist(), device, host)

    def _use_prefix(self, st: S.State, slot: int) -> None:
        context, size = self._context_of(slot), self._block_size
        # At least one token is computed: the next one comes out of it.
        last = (int(st.slot[S.TARGET, slot]) - 1) // size
        first = block = int(st.slot[S.COMPUTED, slot]) // size
        while block < last:
            found = self.tables.device_pool.find(context.digest(block))
            if found is None:
                break
            if found != self.tables.device[slot, block]:
                self.tables.share_device(slot, block, found)
            block += 1
        if block > first:
            st.slot[S.COMPUTED, slot] = block * size

    def _remember(self, slot: int, context: Context, start: int, end: int) -> None:
        for block in range(start // self._block_size, end // self._block_size):
            digest = context.digest(block)
            self.tables.device_pool.remember(int(self.tables.device[slot, block]), digest)

    def _own(self, slot: int, start: int, end: int) -> None:
        # Before tokens [start, end) are written: their blocks are the slot's alone, and nobody
        # finds in them what they are about to lose.
        if not self._prefix_caching:
            return
        pool, size = self.tables.device_pool, self._block_size
        for block in range(start // size, -(-end // size)):
            name = int(self.tables.device[slot, block])
            if pool.num_references(name) > 1:
                self._copy_on_write(slot, block, name)
            else:
                pool.forget(name)

    def _copy_on_write(self, slot: int, block: int, shared: int) -> None:
        (own,) = self.tables.device_pool.take(1)
        self._arena.device[:, :, int(own)].copy_(self._arena.device[:, :, shared])
        self.tables.device_pool.release([shared])
        self.tables.device[slot, block] = own
