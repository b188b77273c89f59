"""A seeded model in a folder, as transformers and vLLM load it: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from rlkv_engine.paged.hugging_face import import_extra
from rlkv_engine.paged.tiny import fill_randomly
from rlkv_engine.paged.tiny_tokenizer import VOCAB_SIZE, tiny_tokenizer

#: The smallest that vLLM's attention on a CPU computes, in the words of transformers.
TINY_SHAPE: Mapping[str, Any] = MappingProxyType(
    {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
)


def write_model_folder(
    folder: Path, shape: Mapping[str, Any] = TINY_SHAPE, *, max_tokens: int = 4096, seed: int = 0
) -> None:
    """Writes a Llama of random weights with the tokenizer and the chat template of ``tiny``.

    Its greedy answers are words and printable characters, as those of ``tiny`` are: they never end
    by themselves. It knows the tokens ``<tool_call>`` and ``</tool_call>``, and says them where it
    is made to (``structured_outputs``).

    Args:
        folder: it is made if it is not there.
        shape: in the words of transformers, without the vocabulary.
        max_tokens: longest context.
        seed: the same seed and shape give the same weights.

    Raises:
        InputError: transformers is not installed.
    """
    transformers = import_extra("transformers")
    tokenizer = tiny_tokenizer()
    config = transformers.LlamaConfig(
        **shape,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    transformers.utils.logging.disable_progress_bar()
    model = transformers.LlamaForCausalLM(config)
    fill_randomly(model.named_parameters(), torch.Generator().manual_seed(seed))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
