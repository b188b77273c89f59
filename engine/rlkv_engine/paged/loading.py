"""Loads a model by name: one made in memory, a Hugging Face folder, or a GGUF file."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rlkv_engine.errors import InputError
from rlkv_engine.paged.attention_base import AttentionBackend
from rlkv_engine.paged.gguf_file import read_gguf
from rlkv_engine.paged.hugging_face import read_config, read_tokenizer
from rlkv_engine.paged.llama import Llama
from rlkv_engine.paged.model_config import ModelConfig, token_ids
from rlkv_engine.paged.random_llama import LLAMA_1B, random_llama
from rlkv_engine.paged.safetensors_folder import read_tensors
from rlkv_engine.paged.tiny import tiny_model
from rlkv_engine.paged.tiny_tokenizer import tiny_tokenizer
from rlkv_engine.paged.weights import fill_weights

#: The models that are built in memory: one for everything, one for GPUs.
TINY = "tiny"
RANDOM_LLAMA_1B = "llama-1b-random"

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to run, and what turns text into its tokens."""

    model: Llama
    config: ModelConfig
    #: A transformers tokenizer, or None where the checkpoint has none.
    tokenizer: Any | None
    #: What a server calls it: the name that it was loaded by, or of its folder or file.
    name: str


def load_model(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    attention: AttentionBackend,
) -> LoadedModel:
    """Loads a model and its tokenizer.

    Args:
        name_or_path: ``tiny``, ``llama-1b-random``, a folder with ``config.json`` and safetensors,
            or a ``.gguf`` file.
        dtype: fp32, bf16 or fp16; weights of another one are converted.
        device: Where the model runs.
        attention: How attention reads the cache there.

    Raises:
        InputError: There is no such model, or we would compute it wrongly.
    """
    if dtype not in _DTYPES:
        known = ", ".join(str(known).removeprefix("torch.") for known in _DTYPES)
        raise InputError(f"dtype {dtype} is not supported: known are {known}")
    device = _checked_device(device)
    if str(name_or_path) == TINY:
        model = tiny_model(attention, dtype, device)
        return LoadedModel(model, model.config, tiny_tokenizer(), TINY)
    if str(name_or_path) == RANDOM_LLAMA_1B:
        model = random_llama(LLAMA_1B, attention, dtype, device)
        return LoadedModel(model, model.config, None, RANDOM_LLAMA_1B)
    path = Path(name_or_path)
    if path.is_dir():
        return _load_folder(path, attention, dtype, device)
    if path.is_file() and path.suffix == ".gguf":
        return _load_gguf(path, attention, dtype, device)
    raise InputError(
        f"no model: neither {TINY!r}, nor a folder, nor a .gguf file. A model of a hub is "
        "downloaded first, for instance with `hf download NAME --local-dir FOLDER`",
        path=path,
    )


def _load_folder(
    folder: Path, attention: AttentionBackend, dtype: torch.dtype, device: torch.device
) -> LoadedModel:
    config = _parsed(read_config(folder), folder / "config.json")
    config = replace(config, eos_token_ids=_eos_token_ids(folder, config))
    model = Llama(config, attention, dtype, device)
    fill_weights(model, read_tensors(folder), folder)
    return LoadedModel(model, config, read_tokenizer(folder), folder.resolve().name)


def _load_gguf(
    path: Path, attention: AttentionBackend, dtype: torch.dtype, device: torch.device
) -> LoadedModel:
    unpacked, tokenizer = read_gguf(path, dtype)
    config = _parsed(unpacked.config, path)
    model = Llama(config, attention, dtype, device)
    fill_weights(model, unpacked.state_dict().items(), path)
    return LoadedModel(model, config, tokenizer, path.stem)


def _parsed(config: Any, path: Path) -> ModelConfig:
    try:
        return ModelConfig.from_hf(config)
    except InputError as error:
        raise InputError(error.reason, path=path) from error


def _eos_token_ids(folder: Path, config: ModelConfig) -> tuple[int, ...]:
    """Chat models name the end of a turn only in ``generation_config.json``."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return config.eos_token_ids
    try:
        more = token_ids(json.loads(path.read_text(encoding="utf-8")).get("eos_token_id"))
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"not a generation configuration: {error}", path=path) from error
    return tuple(dict.fromkeys((*config.eos_token_ids, *more)))


def _checked_device(device: torch.device | str) -> torch.device:
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r} is not one that torch knows") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device}: torch finds no CUDA device")
    if device.type == "cuda" and device.index not in (None, 0):
        # Triton launches on the current device, whatever its arguments are on.
        raise InputError(
            f"device {device}: only the first GPU that this process sees is used;"
            " CUDA_VISIBLE_DEVICES says which that is"
        )
    return device
