"""A random model of a real one's shape: what a large model costs, with no download."""

from __future__ import annotations

import torch

from rlkv_engine.paged.attention_base import AttentionBackend
from rlkv_engine.paged.llama import Llama
from rlkv_engine.paged.model_config import ModelConfig, RopeConfig

#: Llama 3.2 1B: 1,235,814,400 weights. Source: its ``config.json``, as it stands in
#: github.com/kevinstephano/thunder_model_blocks, ``hf_llama/llama_config.py``.
LLAMA_1B = ModelConfig(
    architecture="LlamaForCausalLM",
    vocab_size=128_256,
    hidden_size=2048,
    intermediate_size=8192,
    num_layers=16,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    max_position_embeddings=131_072,
    rms_norm_eps=1e-5,
    rope=RopeConfig(
        theta=500_000.0,
        rope_type="llama3",
        factor=32.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    ),
    tie_word_embeddings=True,
    qkv_bias=False,
)

#: As in ``tiny``: with it an answer wanders among the tokens.
_GAIN = 1.5
#: Of the embedding, which is the last projection too: so small beside what the layers add that the
#: likeliest next token is not the last one again.
_EMBEDDING_STD = 0.02


@torch.no_grad()
def random_llama(
    config: ModelConfig,
    attention: AttentionBackend,
    dtype: torch.dtype,
    device: torch.device,
    seed: int = 0,
) -> Llama:
    """The model, drawn where it runs; a seed gives the same weights on every device of one kind."""
    model = Llama(config, attention, dtype, device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        elif name in ("embedding", "lm_head"):
            parameter.normal_(0.0, _EMBEDDING_STD, generator=generator)
        else:
            parameter.normal_(0.0, _GAIN * parameter.shape[1] ** -0.5, generator=generator)
    return model
