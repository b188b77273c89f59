"""How the next token is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlkv_engine.errors import InputError


@dataclass(slots=True)
class Sampling:
    """Temperature and nucleus of one session; temperature 0 takes the likeliest token."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    _generator: torch.Generator | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Raises ``InputError`` for numbers out of range."""
        if not 0.0 <= self.temperature <= 100.0:
            raise InputError(f"temperature must be between 0 and 100 (got {self.temperature})")
        if not 0.0 < self.top_p <= 1.0:
            raise InputError(f"top_p must be above 0 and at most 1 (got {self.top_p})")

    def draw(self, logits: Tensor) -> int:
        """A token from logits of shape ``[vocab_size]``, by the session's own random numbers."""
        if self._generator is None:
            self._generator = torch.Generator()
            if self.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self.seed)
        chances = torch.softmax(logits.float().cpu() / self.temperature, dim=-1)
        if self.top_p < 1.0:
            # The smallest set of likeliest tokens that has top_p together (Holtzman et al. 2020).
            ordered, index = chances.sort(descending=True)
            ordered[ordered.cumsum(0) - ordered >= self.top_p] = 0.0
            chances = torch.zeros_like(chances).scatter_(0, index, ordered)
        return int(torch.multinomial(chances, 1, generator=self._generator))


def choose_tokens(logits: Tensor, samplings: Sequence[Sampling]) -> list[int]:
    """One token for each row of logits, shape ``[num_rows, vocab_size]``."""
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    for row, sampling in enumerate(samplings):
        if sampling.temperature > 0.0:
            tokens[row] = sampling.draw(logits[row])
    return tokens
