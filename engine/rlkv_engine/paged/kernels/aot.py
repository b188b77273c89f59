"""Compiles the kernels for GPUs that are not there, and says what they need of them.

``python -m rlkv_engine.paged.kernels.aot`` prints a table of every kernel in the shapes used in
practice, and fails if one would not launch or spills registers. That a kernel compiles and fits
says nothing of its results or its speed. Under ``TRITON_INTERPRET`` nothing can be compiled.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rlkv_engine.errors import InputError
from rlkv_engine.paged.kernels.aot_variants import DTYPES, Variant, all_variants


@dataclass(frozen=True, slots=True)
class Chip:
    """What a program may take of a chip."""

    backend: str
    arch: int | str
    warp_size: int
    #: Of one program. CUDA C++ Programming Guide, "Compute Capabilities", shared memory per block;
    #: AMD CDNA3 ISA, local data share of a compute unit.
    max_shared_bytes: int
    #: Of a thread. CDNA3: vector registers of one lane, accumulators among them.
    max_registers: int


CHIPS: Mapping[str, Chip] = {
    "sm_80": Chip("cuda", 80, 32, 166_912, 255),
    "sm_86": Chip("cuda", 86, 32, 101_376, 255),
    "sm_89": Chip("cuda", 89, 32, 101_376, 255),
    "sm_90": Chip("cuda", 90, 32, 232_448, 255),
    "gfx942": Chip("hip", "gfx942", 64, 65_536, 512),
}


@dataclass(frozen=True, slots=True)
class Needs:
    """What a compiled kernel takes of a chip, and how it reads memory."""

    chip: str
    variant: str
    shared_bytes: int
    registers: int
    #: Memory of a thread outside its registers, which is spills: the kernels have no local arrays.
    spill_bytes: int
    #: Width of the widest load of a thread.
    load_bytes: int
    #: Tiles of keys (and of values) that fit in shared memory at a time; 0 where there are none.
    tiles_in_flight: int

    def failures(self) -> list[str]:
        """Why it would not launch, or not run well; empty if all is well."""
        chip = CHIPS[self.chip]
        found = []
        if self.shared_bytes > chip.max_shared_bytes:
            found.append(f"{self.shared_bytes} B of shared memory, of {chip.max_shared_bytes}")
        if self.registers > chip.max_registers:
            found.append(f"{self.registers} registers, of {chip.max_registers}")
        if self.spill_bytes:
            found.append(f"{self.spill_bytes} B of spills")
        return found


def compile_variant(variant: Variant, chip_name: str) -> Needs:
    """Compiles one kernel for one of ``CHIPS``; 0.1 to 2 s.

    Raises:
        InputError: the interpreter is on.
    """
    if triton.knobs.runtime.interpret:
        raise InputError("TRITON_INTERPRET is set: kernels cannot be compiled in this process")
    chip = CHIPS[chip_name]
    names = variant.kernel.arg_names
    source = ASTSource(
        variant.kernel,
        {name: variant.types.get(name, "constexpr") for name in names},
        constexprs=variant.constants,
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in variant.aligned()},
    )
    target = GPUTarget(chip.backend, chip.arch, chip.warp_size)
    compiled = triton.compile(source, target=target, options=dict(variant.options))
    read = _cuda if chip.backend == "cuda" else _hip
    registers, spill_bytes, load_bytes = read(compiled.asm)
    tiles = re.findall(
        r"local_alloc : .*memdesc<(\d+)x\d+x\d+x\w+,.*mutable", compiled.asm["ttgir"]
    )
    return Needs(
        chip_name,
        variant.name,
        compiled.metadata.shared,
        registers,
        spill_bytes,
        load_bytes,
        min(map(int, tiles), default=0),
    )


def _cuda(asm: Mapping[str, Any]) -> tuple[int, int, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    loads = re.findall(r"ld\.global[\w.:]*\.v(\d)\.b(\d+)", asm["ptx"])
    copies = re.findall(r"cp\.async\.c[ag]\.shared\.global.*?\], \[.*?\], 0x(\w+)", asm["ptx"])
    widths = [int(n) * int(bits) // 8 for n, bits in loads] + [int(n, 16) for n in copies]
    return used["REG"], used["STACK"] + used["LOCAL"], max(widths, default=0)


def _hip(asm: Mapping[str, Any]) -> tuple[int, int, int]:
    text = asm["amdgcn"]
    names = r"vgpr_count|vgpr_spill_count|sgpr_spill_count|private_segment_fixed_size"
    used = {key: int(value) for key, value in re.findall(rf"\.({names}):\s+(\d+)", text)}
    spilled = 4 * (used["vgpr_spill_count"] + used["sgpr_spill_count"])
    words = re.findall(r"(?:global|buffer)_load_dwordx(\d)", text)
    widest = 4 * max(map(int, words), default=0)
    return used["vgpr_count"], max(spilled, used["private_segment_fixed_size"]), widest


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles the matrix; returns 1 if a kernel would not launch or spills."""
    parser = argparse.ArgumentParser(description="Compile every kernel for GPUs not present.")
    parser.add_argument("--chip", action="append", choices=list(CHIPS), help="all")
    parser.add_argument("--dtype", action="append", choices=list(DTYPES), help="fp16 and bf16")
    parser.add_argument("--head-dim", action="append", type=int, help="64 and 128")
    parser.add_argument(
        "--group", action="append", type=int, help="query heads per KV head: 1, 3, 4, 8"
    )
    parser.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    asked = parser.parse_args(arguments)
    chosen = {"dtypes": asked.dtype, "head_dims": asked.head_dim, "groups": asked.group}
    rows = []
    if not asked.json:
        print(
            f"{'chip':8}{'kernel':36}{'shared B':>9}{'registers':>10}{'spills B':>9}{'load B':>8}"
        )
    for variant in all_variants(**{key: value for key, value in chosen.items() if value}):
        for chip in asked.chip or CHIPS:
            needs = compile_variant(variant, chip)
            rows.append(asdict(needs) | {"failures": needs.failures()})
            if not asked.json:
                print(
                    f"{chip:8}{needs.variant:36}{needs.shared_bytes:>9}{needs.registers:>10}"
                    f"{needs.spill_bytes:>9}{needs.load_bytes:>8}  {'; '.join(needs.failures())}",
                    flush=True,
                )
    num_failed = sum(bool(row["failures"]) for row in rows)
    if asked.json:
        print(json.dumps(rows))
    else:
        print(f"{len(rows)} compiled; {num_failed} would not launch or spill")
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
