"""Small random checkpoints as transformers saves them, and its own answers on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

transformers: Any = pytest.importorskip("transformers")

#: The shapes that the issue names: heads, KV heads, ties, biases and rotary scaling as there.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama3": {
        "model_type": "llama",
        "hidden_size": 64,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        "max_position_embeddings": 1024,
        # 1.1 names the parameter rope_scaling, with rope_theta outside: the older form.
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "qwen2": {
        "model_type": "qwen2",
        "hidden_size": 112,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    },
    "smollm2": {
        "model_type": "llama",
        "hidden_size": 72,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
    },
    "linear": {
        "model_type": "llama",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0},
    },
    # A head that is no share of the hidden size.
    "mistral": {
        "model_type": "mistral",
        "hidden_size": 40,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
}

VOCAB_SIZE = 301  # odd, so that no product has columns to pair up


def random_model(name: str, **changes: Any) -> Any:
    """A transformers model of a shape of ``CONFIGS``, with weights that matter everywhere."""
    options = {"vocab_size": VOCAB_SIZE, "intermediate_size": 96, "num_hidden_layers": 3}
    config = transformers.AutoConfig.for_model(**(CONFIGS[name] | options | changes))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.normal_(1.0, 0.3)
            else:
                parameter.normal_(0.0, 1.2 / parameter.shape[1] ** 0.5)
    return model


def saved(model: Any, folder: Path, **options: Any) -> Path:
    """Saves a model as transformers does, and returns the folder."""
    model.save_pretrained(folder, **options)
    return folder


@torch.no_grad()
def expected_logits(model: Any, ids: Tensor) -> Tensor:
    """The logits of transformers, ``[num_tokens, vocab_size]``."""
    logits: Tensor = model(ids[None]).logits[0]
    return logits
