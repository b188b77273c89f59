"""What this machine takes for a token and for a block: given, or measured while it runs."""

from __future__ import annotations

from rlkv_service.adapters.vllm.settings import Settings

#: Until a prompt was computed, seconds per token.
FIRST_PREFILL_TOKEN_S = 1e-4
#: A step with fewer tokens of prompts says little about them.
MIN_PREFILL_TOKENS = 32
#: Weight of the newest measurement.
NEWEST = 0.1


class Costs:
    """Moving averages of costs, where none is given.

    Args:
        settings: those that are given are never measured.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._prefill_token_s: float | None = None
        self._decode_step_s: float | None = None
        self._out_block_s: float | None = None
        self._in_block_s: float | None = None

    @property
    def prefill_token_s(self) -> float:
        """Seconds to compute a token of a prompt."""
        return self._settings.prefill_token_s or self._prefill_token_s or FIRST_PREFILL_TOKEN_S

    @property
    def swap_out_block_s(self) -> float:
        """Seconds to copy a block to the host; 0: not known yet."""
        return self._settings.swap_out_block_s or self._out_block_s or 0.0

    @property
    def swap_in_block_s(self) -> float:
        """Seconds to copy a block to the device; 0: not known yet."""
        return self._settings.swap_in_block_s or self._in_block_s or 0.0

    def step(self, num_tokens: int, num_requests: int, step_s: float) -> None:
        """A step has computed so many tokens for so many requests."""
        prefill = num_tokens - num_requests
        if num_tokens and prefill <= 0:
            self._decode_step_s = _averaged(self._decode_step_s, step_s)
        elif prefill >= MIN_PREFILL_TOKENS:
            rest_s = step_s - (self._decode_step_s or 0.0)
            if rest_s > 0.0:
                self._prefill_token_s = _averaged(self._prefill_token_s, rest_s / num_tokens)

    def copied_out(self, num_blocks: int, copy_s: float) -> None:
        """Blocks were copied to the host."""
        if num_blocks:
            self._out_block_s = _averaged(self._out_block_s, copy_s / num_blocks)

    def copied_in(self, num_blocks: int, copy_s: float) -> None:
        """Blocks were copied to the device."""
        if num_blocks:
            self._in_block_s = _averaged(self._in_block_s, copy_s / num_blocks)


def _averaged(old: float | None, new: float) -> float:
    return new if old is None else (1.0 - NEWEST) * old + NEWEST * new
