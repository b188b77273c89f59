"""The weights of a GGUF file, unpacked by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rlkv_engine.errors import InputError
from rlkv_engine.paged.hugging_face import import_extra, read_tokenizer

#: What GGUF calls the architectures that we can run; Mistral is a "llama" there.
_ARCHITECTURES = ("llama", "qwen2")


def read_gguf(path: Path, dtype: torch.dtype) -> tuple[Any, Any | None]:
    """The transformers model of a GGUF file, its weights unpacked to ``dtype``, and its tokenizer.

    Raises:
        InputError: The file is damaged, or of a model that would be computed wrongly.
    """
    has_tokenizer = _check(path)
    transformers = import_extra("transformers")
    import_extra("accelerate")  # transformers reads no GGUF without it
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=dtype,
            quantization_config=transformers.GgufConfig(dequantize=True),
            local_files_only=True,
            output_loading_info=True,
        )
    except (ValueError, KeyError, RuntimeError, OSError, NotImplementedError) as error:
        raise InputError(f"transformers cannot load it: {error}", path=path) from error
    # transformers fills a tensor that is missing with random numbers, and only warns.
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(problem):
            names = ", ".join(sorted(str(name) for name in report[problem]))
            raise InputError(f"{problem.replace('_keys', '')} tensors: {names}", path=path)
    tokenizer = read_tokenizer(path.parent, gguf_file=path.name) if has_tokenizer else None
    return model, tokenizer


def _check(path: Path) -> bool:
    """Whether it has a tokenizer; refuses what transformers would get wrong in silence."""
    gguf = import_extra("gguf")
    try:
        reader = gguf.GGUFReader(path)
        architecture = reader.fields["general.architecture"].contents()
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise InputError(f"not a readable GGUF file: {error}", path=path) from error
    if architecture not in _ARCHITECTURES:
        raise InputError(
            f"architecture {architecture} is not supported: known are {', '.join(_ARCHITECTURES)}",
            path=path,
        )
    scaling = reader.fields.get(f"{architecture}.rope.scaling.type")
    stretched = scaling is not None and scaling.contents() != "none"
    if stretched or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        raise InputError(
            "its rotary embeddings are stretched, which transformers does not read from a GGUF: "
            "use the model's folder of safetensors",
            path=path,
        )
    return "tokenizer.ggml.model" in reader.fields
