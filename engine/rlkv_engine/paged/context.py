"""What a session says: its tokens, how the next one is chosen, and the digests of its blocks."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.paged.sampling import Sampling


@dataclass(slots=True)
class Context:
    """One session's tokens so far, prompt and output of all turns."""

    block_size: int
    sampling: Sampling = field(default_factory=Sampling)
    tokens: array[int] = field(default_factory=lambda: array("q"))
    #: Tokens of this turn's prompt, and those of it and of lost output that had to be computed.
    prompt_tokens: int = 0
    computed_tokens: int = 0
    _digests: list[bytes] = field(default_factory=list)

    def begin_turn(self, kept: int, new_tokens: Iterable[int]) -> None:
        """The next prompt: the first ``kept`` tokens so far, then new ones."""
        del self.tokens[kept:]
        del self._digests[kept // self.block_size :]
        self.tokens.extend(map(int, new_tokens))
        self.prompt_tokens = len(self.tokens)
        self.computed_tokens = 0

    def array(self, start: int, end: int) -> NDArray[np.int64]:
        """Tokens ``[start, end)``, shape ``[end - start]``."""
        return np.frombuffer(self.tokens[start:end], np.int64)

    def digest(self, block: int) -> bytes:
        """Digest of block number ``block`` and all before it; they must be full.

        A chain, as in vLLM's ``kv_cache_utils.hash_block_tokens``: equal digests mean equal
        contexts up to the end of the block.
        """
        while len(self._digests) <= block:
            start = len(self._digests) * self.block_size
            before = self._digests[-1] if self._digests else b""
            content = self.tokens[start : start + self.block_size].tobytes()
            self._digests.append(hashlib.blake2b(before + content, digest_size=16).digest())
        return self._digests[block]
