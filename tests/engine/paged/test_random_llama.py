from __future__ import annotations

from dataclasses import replace

import torch

from rlkv_engine.paged.attention_cpu import cpu_attention
from rlkv_engine.paged.llama import Llama
from rlkv_engine.paged.random_llama import LLAMA_1B, random_llama
from tests.engine.paged.test_tiny import greedy

CPU = torch.device("cpu")
#: The same model, small enough for a test.
LITTLE = replace(
    LLAMA_1B, vocab_size=4096, hidden_size=256, intermediate_size=512, num_heads=4, num_kv_heads=2
)


def test_it_has_the_weights_and_the_kv_of_the_real_one() -> None:
    model = Llama(LLAMA_1B, cpu_attention, torch.bfloat16, torch.device("meta"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_235_814_400
    assert LLAMA_1B.kv_token_bytes(torch.bfloat16) == 32 * 1024


def test_answers_wander() -> None:
    """A wrong context shows: the next token is not just the last one again."""
    model = random_llama(LITTLE, cpu_attention, torch.float32, CPU)
    answer = greedy(model, list(range(20)), 120)
    print(len(set(answer)))
    assert len(set(answer)) > 60


def test_a_seed_gives_the_same_model() -> None:
    first, again, other = (
        random_llama(LITTLE, cpu_attention, torch.float32, CPU, seed) for seed in (1, 1, 2)
    )
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.embedding, other.embedding)
