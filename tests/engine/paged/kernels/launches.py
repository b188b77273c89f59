"""Compares what the launchers ask triton to compile with what is compiled ahead of time.

Without a GPU: a driver that only names its chip, and triton's own hook before a compilation, which
says no. Started by ``test_compiled.py``; prints the differences as JSON.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from rlkv_engine.paged.kernels.aot_variants import Variant, all_variants
from rlkv_engine.paged.kernels.block_copy import gather_blocks, scatter_blocks
from rlkv_engine.paged.kernels.context_splits import ContextSplits
from rlkv_engine.paged.kernels.decode_attention import decode_attention
from rlkv_engine.paged.kernels.kv_write import write_kv
from rlkv_engine.paged.kernels.prefill_attention import prefill_attention
from rlkv_engine.paged.kernels.reduce_splits import reduce_splits
from rlkv_engine.paged.kernels.tier_copy import copy_between_tiers


class NamesItsChip:
    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def launches() -> dict[str, dict[str, Any]]:
    """By the name that the matrix of ``aot_variants`` has for it."""
    asked: list[dict[str, Any]] = []

    def note(*, compile: dict[str, Any], **_: Any) -> bool:
        asked.append(compile)
        return True  # do not compile, and so do not launch

    triton.runtime.driver.set_active(NamesItsChip())
    triton.knobs.runtime.jit_cache_hook = note
    cache = torch.zeros(2, 3, 16, 8, 128, dtype=torch.bfloat16)
    tables = torch.zeros(2, 20, dtype=torch.int32)
    lens = torch.full((2,), 300, dtype=torch.int32)
    found = {}

    def last_attention() -> dict[str, Any]:
        return [one for one in asked if "SPLIT" in one["signature"]][-1]

    fused = torch.zeros(2, 48, 128, dtype=torch.bfloat16)
    write_kv(fused[:, 32:40], fused[:, 40:], cache, torch.arange(2))
    found["kv_write bf16 d128"] = asked[-1]

    arena = torch.zeros(32, 2, 2, 16, 8, 128, dtype=torch.bfloat16)
    staging = torch.zeros(1, 32, 2, 16, 8, 128, dtype=torch.bfloat16)
    gather_blocks(arena, torch.tensor([1]), staging)
    found["block_gather d128"] = asked[-1]
    scatter_blocks(staging, torch.tensor([1]), arena)
    found["block_scatter d128"] = asked[-1]

    # As from one upload: the second half begins wherever the first ends.
    device_ids, host_ids = torch.tensor([[1], [0]], dtype=torch.int32).unbind()
    for out_of, name in ((True, "out"), (False, "in")):
        copy_between_tiers(arena, staging, device_ids, host_ids, out=out_of)
        found[f"tier_copy_{name} d128"] = asked[-1]

    out = torch.zeros(2, 8, 128, dtype=torch.bfloat16)
    reduce_splits(torch.zeros(2, 8, 5, 128), torch.zeros(2, 8, 5), out)
    found["reduce_splits bf16 d128"] = asked[-1]

    query, out = fused[:, :32], torch.zeros(2, 32, 128, dtype=torch.bfloat16)
    for splits, suffix in ((ContextSplits(320, 1), ""), (ContextSplits(64, 5), "_split")):
        decode_attention(query, cache, tables, lens, out, 1.0, splits)
        found[f"decode{suffix} bf16 d128 g4"] = last_attention()
        bounds = torch.tensor([0, 1, 2], dtype=torch.int32)
        for longest, rows in ((1, 16), (10, 64), (100, 128)):
            prefill_attention(query, cache, tables, bounds, lens, out, 1.0, longest, splits)
            found[f"prefill{suffix} bf16 d128 g4 rows{rows}"] = last_attention()
    return found


def differences(variant: Variant, launch: dict[str, Any]) -> list[str]:
    names = variant.kernel.arg_names
    ahead = {
        "signature": {name: variant.types.get(name, "constexpr") for name in names},
        "constants": dict(variant.constants),
        "aligned": set(variant.aligned()),
        "options": {"num_warps": 4, "num_stages": 3} | dict(variant.options),
    }
    asked = {
        "signature": launch["signature"],
        "constants": {names[place]: value for (place,), value in launch["constants"].items()},
        "aligned": {names[place] for (place,), found in launch["configs"][0].items() if found},
        "options": {name: launch[name] for name in ("num_warps", "num_stages")},
    }
    return [f"{part}: {ahead[part]} {asked[part]}" for part in ahead if ahead[part] != asked[part]]


def main() -> None:
    variants = {variant.name: variant for variant in all_variants(["bf16"], [128], [4])}
    found = launches()
    different = {name: differences(variants[name], launch) for name, launch in found.items()}
    print(json.dumps({"never launched": sorted(set(variants) - set(found)), **different}))


if __name__ == "__main__":
    main()
