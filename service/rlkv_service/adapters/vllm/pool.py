"""What the plug-in needs of a block pool and of a request; vLLM has them under other names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol


class Pool(Protocol):
    """Blocks with reference counts: free ones are in a queue, and found by hash until taken."""

    @property
    def num_blocks(self) -> int:
        """All that can be had."""

    @property
    def num_free(self) -> int:
        """Without a reference, with or without a hash."""

    def num_references(self, block_id: int) -> int:
        """References to a block."""

    def hash_of(self, block_id: int) -> bytes | None:
        """What a block is found by; None: by nothing."""

    def find(self, block_hash: bytes) -> int | None:
        """A block of that hash."""

    def touch(self, block_ids: Iterable[int]) -> None:
        """One more reference to each."""

    def free(self, block_ids: Iterable[int]) -> None:
        """One reference less to each; who loses the last is taken in this order.

        Blocks with a hash go to the end of the queue, others to its front.
        """

    def drop_hashes(self, block_ids: Iterable[int]) -> None:
        """Nobody finds these any more."""


class EngineRequest(Protocol):
    """What is read of ``vllm.v1.request.Request``."""

    request_id: str
    session_id: str | None
    kv_transfer_params: dict[str, Any] | None
    block_hashes: Sequence[bytes]  # of all full blocks of prompt and answer
    num_prompt_tokens: int
    num_computed_tokens: int
    num_in_flight_tokens: int

    @property
    def num_tokens(self) -> int:
        """Of prompt and answer."""

    @property
    def num_output_tokens(self) -> int:
        """Of the answer."""

    @property
    def all_token_ids(self) -> Sequence[int]:
        """Prompt and answer."""

    @property
    def output_token_ids(self) -> Sequence[int]:
        """The answer."""


def num_full_blocks(request: EngineRequest, block_size: int) -> int:
    """Blocks of a request of which every token has its KV.

    The token sampled last has none yet, though it may be the last of a block that has a hash; and
    of steps whose output is not there (asynchronous scheduling) nothing is known.
    """
    computed = request.num_computed_tokens - request.num_in_flight_tokens
    known = min(computed, request.num_tokens - 1)
    return max(0, min(known // block_size, len(request.block_hashes)))
