"""Compiles some of the kernels for chips that are not there; prints what they need as JSON.

Started by ``test_compiled.py`` in a process of its own: triton compiles nothing where its
interpreter has been asked for, and keeps what it compiles.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from rlkv_engine.paged.kernels.aot import CHIPS, compile_variant
from rlkv_engine.paged.kernels.aot_variants import all_variants
from tests.engine.paged.kernels.compiled_cases import EVERY_CHIP, SOME_CHIPS, SPILLING, TOO_LARGE


def main() -> None:
    variants = {
        variant.name: variant
        for dtype, head_dim, group in (("bf16", 128, 4), ("fp16", 64, 3))
        for variant in all_variants([dtype], [head_dim], [group])
    }
    wanted = [(name, chip) for name in EVERY_CHIP for chip in CHIPS]
    wanted += [(name, chip) for name, chips in SOME_CHIPS.items() for chip in chips]
    compiled = [(name, compile_variant(variants[name], chip)) for name, chip in wanted]
    # What must be found wanting: too few registers for it, and more stages than memory.
    decode = variants["decode_split bf16 d128 g4"]
    squeezed = replace(decode, options={**decode.options, "maxnreg": 32})
    deep = replace(decode, options={**decode.options, "num_stages": 9})
    compiled.append((SPILLING, compile_variant(squeezed, "sm_90")))
    compiled.append((TOO_LARGE, compile_variant(deep, "sm_86")))
    rows = [asdict(needs) | {"failures": needs.failures()} for _, needs in compiled]
    names = [f"{name} {needs.chip}" for name, needs in compiled]
    print(json.dumps(dict(zip(names, rows, strict=True))))


if __name__ == "__main__":
    main()
