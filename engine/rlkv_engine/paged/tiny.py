"""A small random model, built in memory: everything runs with no download."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from rlkv_engine.paged.attention_base import AttentionBackend
from rlkv_engine.paged.llama import Llama
from rlkv_engine.paged.model_config import ModelConfig, RopeConfig
from rlkv_engine.paged.tiny_tokenizer import IM_END, SPECIAL_TOKENS, VOCAB_SIZE, vocabulary

#: Spread of the weights, as a multiple of what keeps the size of what they multiply. With it, an
#: answer wanders among the tokens instead of repeating one, and rounding stays small beside the
#: distance between the best two scores.
_GAIN = 1.5

CONFIG = ModelConfig(
    architecture="LlamaForCausalLM",
    vocab_size=VOCAB_SIZE,
    hidden_size=64,
    intermediate_size=128,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope=RopeConfig(theta=10_000.0),
    tie_word_embeddings=False,
    qkv_bias=False,
    eos_token_ids=(SPECIAL_TOKENS.index(IM_END),),
)


def tiny_model(
    attention: AttentionBackend, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> Llama:
    """The model; a seed gives the same weights on every device.

    Its greedy answers are words and printable characters: the scores of all other tokens are 0,
    which is never the largest of 512. So its answers never end by themselves.
    """
    model = Llama(CONFIG, attention, dtype, device)
    fill_randomly(model.named_parameters(), torch.Generator().manual_seed(seed))
    return model


@torch.no_grad()
def fill_randomly(parameters: Iterable[tuple[str, Tensor]], generator: torch.Generator) -> None:
    """Fills the parameters of a decoder with this vocabulary, by name, in the order given.

    The names are ours or those of transformers.
    """
    for name, parameter in parameters:
        if parameter.dim() == 1:
            parameter.fill_(1.0)
            continue
        std = 1.0 if "embed" in name else _GAIN * parameter.shape[1] ** -0.5
        weight = torch.empty(parameter.shape).normal_(0.0, std, generator=generator)
        if "lm_head" in name:
            weight[[i for i, token in enumerate(vocabulary()) if not _is_printable(token)]] = 0.0
        parameter.copy_(weight)


def _is_printable(token: bytes) -> bool:
    return bool(token) and all(32 <= byte < 127 for byte in token)
