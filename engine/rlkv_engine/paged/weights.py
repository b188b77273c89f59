"""Puts the tensors of a checkpoint where our decoder wants them.

Checkpoints have query, key and value apart, likewise gate and up, and weights as ``[out, in]``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlkv_engine.errors import InputError
from rlkv_engine.paged.llama import DecoderLayer, Llama
from rlkv_engine.paged.model_config import ModelConfig
from rlkv_engine.paged.rope import side_by_side

#: Buffers that old checkpoints carry and that we compute.
_IGNORED_SUFFIX = ".rotary_emb.inv_freq"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one tensor of a checkpoint goes: a view of a parameter, in the order [out, in]."""

    view: Tensor
    #: For query and key: rows of one head, which are put in the order that ``rope`` rotates.
    head_dim: int | None = None

    def fill(self, tensor: Tensor) -> None:
        self.view.copy_(tensor if self.head_dim is None else side_by_side(tensor, self.head_dim))


@torch.no_grad()
def fill_weights(model: Llama, tensors: Iterable[tuple[str, Tensor]], origin: Path) -> None:
    """Copies the tensors of a checkpoint into ``model``, converted to its dtype and device.

    Args:
        model: Its weights are overwritten.
        tensors: Names as transformers gives them, each with its tensor; read one at a time.
        origin: Where they come from, for the message.

    Raises:
        InputError: A tensor is missing, unknown, of another shape, or of a dtype that is no float.
    """
    places = _places(model)
    missing = dict(places)
    tied_head: Tensor | None = None
    for name, tensor in tensors:
        if name.endswith(_IGNORED_SUFFIX):
            continue
        if name == "lm_head.weight" and model.lm_head is None:
            tied_head = tensor
            continue
        place = places.get(name)
        if place is None:
            raise InputError(
                f"tensor {name} of shape {list(tensor.shape)} has no place in a "
                f"{model.config.architecture} of {model.config.num_layers} layers",
                path=origin,
            )
        if tensor.shape != place.view.shape:
            raise InputError(
                f"tensor {name} has the shape {list(tensor.shape)}, the configuration needs "
                f"{list(place.view.shape)}",
                path=origin,
            )
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            raise InputError(
                f"tensor {name} is {tensor.dtype}: quantized weights are not supported",
                path=origin,
            )
        place.fill(tensor)
        missing.pop(name, None)
    if missing:
        name, place = next(iter(missing.items()))
        raise InputError(
            f"{len(missing)} of {len(places)} tensors are missing, the first is {name} of shape "
            f"{list(place.view.shape)}",
            path=origin,
        )
    if tied_head is not None:
        _check_tied(model, tied_head, origin)


def _check_tied(model: Llama, head: Tensor, origin: Path) -> None:
    """Some checkpoints save the tied projection again; one that differs says they are not tied."""
    table = model.embedding
    if head.shape != table.shape or not torch.equal(head.to(table), table):
        raise InputError(
            "lm_head.weight differs from model.embed_tokens.weight, yet the configuration has "
            "tie_word_embeddings = true",
            path=origin,
        )


def _places(model: Llama) -> dict[str, _Place]:
    """Every tensor that a checkpoint must have, by its name there."""
    places = {
        "model.embed_tokens.weight": _Place(model.embedding),
        "model.norm.weight": _Place(model.norm),
    }
    if model.lm_head is not None:
        places["lm_head.weight"] = _Place(model.lm_head)
    for i, layer in enumerate(model.layers):
        assert isinstance(layer, DecoderLayer)
        for name, place in _layer_places(model.config, layer):
            places[f"model.layers.{i}.{name}"] = place
    return places


def _layer_places(config: ModelConfig, layer: DecoderLayer) -> Iterable[tuple[str, _Place]]:
    head_dim, num_kv = config.head_dim, config.num_kv_heads
    sizes = [config.num_heads * head_dim, num_kv * head_dim, num_kv * head_dim]
    dims = (head_dim, head_dim, None)
    for letter, rows, dim in zip("qkv", torch.split(layer.qkv, sizes), dims, strict=True):
        yield f"self_attn.{letter}_proj.weight", _Place(rows, dim)
    if layer.qkv_bias is not None:
        for letter, rows, dim in zip("qkv", torch.split(layer.qkv_bias, sizes), dims, strict=True):
            yield f"self_attn.{letter}_proj.bias", _Place(rows, dim)
    gate, up = layer.gate_up.chunk(2)
    yield "self_attn.o_proj.weight", _Place(layer.output)
    yield "mlp.gate_proj.weight", _Place(gate)
    yield "mlp.up_proj.weight", _Place(up)
    yield "mlp.down_proj.weight", _Place(layer.down)
    yield "input_layernorm.weight", _Place(layer.attention_norm)
    yield "post_attention_layernorm.weight", _Place(layer.mlp_norm)
