"""What is compiled in the tests; the whole matrix takes minutes. Imports no triton."""

from __future__ import annotations

CHIPS = ("sm_80", "sm_86", "sm_89", "sm_90", "gfx942")

EVERY_CHIP = ("kv_write bf16 d128", "block_gather d128", "decode_split bf16 d128 g4")

#: The others where shared memory or registers are scarcest, and on another kind of chip.
SOME_CHIPS = {
    "block_scatter d64": ("sm_90", "gfx942"),
    "tier_copy_out d128": ("sm_80", "sm_90", "gfx942"),
    "tier_copy_in d64": ("sm_90",),
    "reduce_splits bf16 d128": ("sm_80", "gfx942"),
    "prefill_split bf16 d128 g4 rows128": ("sm_86", "gfx942"),
    "prefill bf16 d128 g4 rows64": ("sm_80",),
    "decode fp16 d64 g3": ("sm_90",),
    "prefill fp16 d64 g3 rows128": ("sm_89", "sm_90"),
}

SPILLING = "with 32 registers"
TOO_LARGE = "with 9 stages"
