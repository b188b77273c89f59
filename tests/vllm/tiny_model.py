"""A Qwen2 with random weights, small enough for a test; its weights depend on the seed alone."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

VOCABULARY = 512
HIDDEN, LAYERS, HEADS, KV_HEADS, INNER = 64, 2, 2, 1, 128
HEAD_DIM = HIDDEN // HEADS


def write_tiny_model(folder: Path, seed: int = 0) -> None:
    """Writes configuration and weights into a folder."""
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * scale

    weights = {
        "model.embed_tokens.weight": normal(VOCABULARY, HIDDEN, scale=1.0),
        "model.norm.weight": torch.ones(HIDDEN),
        "lm_head.weight": normal(VOCABULARY, HIDDEN, scale=0.3),
    }
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        weights[f"{layer}.input_layernorm.weight"] = torch.ones(HIDDEN)
        weights[f"{layer}.post_attention_layernorm.weight"] = torch.ones(HIDDEN)
        for name, rows in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            weights[f"{layer}.self_attn.{name}_proj.weight"] = normal(
                rows * HEAD_DIM, HIDDEN, scale=0.25
            )
            weights[f"{layer}.self_attn.{name}_proj.bias"] = torch.zeros(rows * HEAD_DIM)
        weights[f"{layer}.self_attn.o_proj.weight"] = normal(HIDDEN, HIDDEN, scale=0.25)
        weights[f"{layer}.mlp.gate_proj.weight"] = normal(INNER, HIDDEN, scale=0.2)
        weights[f"{layer}.mlp.up_proj.weight"] = normal(INNER, HIDDEN, scale=0.2)
        weights[f"{layer}.mlp.down_proj.weight"] = normal(HIDDEN, INNER, scale=0.2)
    save_file(weights, folder / "model.safetensors")
