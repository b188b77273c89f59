"""The logits are those of transformers on the same weights, however the context is computed."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlkv_engine.paged.attention_base import AttentionBackend
from rlkv_engine.paged.attention_batch import AttentionBatch, Span
from rlkv_engine.paged.attention_cpu import cpu_attention
from rlkv_engine.paged.attention_torch import torch_attention
from rlkv_engine.paged.llama import Llama
from rlkv_engine.paged.loading import load_model
from rlkv_engine.paged.model_config import ModelConfig
from rlkv_engine.paged.weights import fill_weights
from tests.engine.paged.paged_run import (
    BLOCK_SIZE,
    logits_in_pieces,
    new_arena,
    scattered_table,
)
from tests.engine.paged.random_checkpoints import (
    CONFIGS,
    VOCAB_SIZE,
    expected_logits,
    random_model,
    saved,
)

#: Seen: 2e-5 at most, where the logits reach 14.
MAX_DIFFERENCE = 1e-3

NUM_TOKENS = 150
BACKENDS = pytest.mark.parametrize("attention", [cpu_attention, torch_attention])


@cache
def context() -> Tensor:
    return torch.randint(0, VOCAB_SIZE, (NUM_TOKENS,), generator=torch.Generator().manual_seed(1))


@cache
def reference(name: str) -> tuple[Any, Tensor]:
    """A transformers model and its logits on the context."""
    model = random_model(name)
    return model, expected_logits(model, context())


def ours(name: str, attention: AttentionBackend, dtype: torch.dtype = torch.float32) -> Llama:
    """Our model with the same weights."""
    theirs, _ = reference(name)
    config = ModelConfig.from_hf(theirs.config)
    model = Llama(config, attention, dtype, torch.device("cpu"))
    fill_weights(model, theirs.state_dict().items(), Path(name))
    return model


@BACKENDS
@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_gives_the_logits_of_transformers(
    name: str, attention: AttentionBackend, tmp_path: Path
) -> None:
    theirs, expected = reference(name)
    folder = saved(theirs, tmp_path / "model")
    model = load_model(folder, dtype=torch.float32, device="cpu", attention=attention).model
    table = scattered_table(NUM_TOKENS, 12)
    # One prefill, then one that ends with decoding.
    for ends in ([NUM_TOKENS], [64, *range(65, NUM_TOKENS + 1)]):
        logits = logits_in_pieces(model, context(), ends, new_arena(model, 12), table)
        difference = (logits - expected).abs().max().item()
        print(f"{name}: {difference:.1e} of {expected.abs().max().item():.1f}")
        assert difference <= MAX_DIFFERENCE


def test_a_sharded_folder_gives_the_same_logits(tmp_path: Path) -> None:
    theirs, expected = reference("llama3")
    folder = saved(theirs, tmp_path / "model", max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    assert not (folder / "model.safetensors").exists()
    loaded = load_model(folder, dtype=torch.float32, device="cpu", attention=cpu_attention)
    model = loaded.model
    table = scattered_table(NUM_TOKENS, 12)
    logits = logits_in_pieces(model, context(), [NUM_TOKENS], new_arena(model, 12), table)
    assert (logits - expected).abs().max() <= MAX_DIFFERENCE
    assert loaded.name == "model"
    assert loaded.tokenizer is None


@settings(max_examples=15)
@given(data=st.data())
@pytest.mark.parametrize("attention", [cpu_attention, torch_attention])
def test_a_context_in_pieces_equals_one_prefill(
    attention: AttentionBackend, data: st.DataObject
) -> None:
    _, expected = reference("smollm2")
    model = ours("smollm2", attention)
    ends = data.draw(st.lists(st.integers(1, NUM_TOKENS), unique=True, max_size=6).map(sorted))
    first_decoded = data.draw(st.integers(1, NUM_TOKENS - 1))
    ends = [end for end in ends if end < first_decoded]
    ends += range(first_decoded, min(first_decoded + 4, NUM_TOKENS))
    table = scattered_table(NUM_TOKENS, 40, data.draw(st.integers(0, 99)))
    logits = logits_in_pieces(model, context(), [*ends, NUM_TOKENS], new_arena(model, 40), table)
    assert (logits - expected).abs().max() <= MAX_DIFFERENCE


@BACKENDS
@pytest.mark.parametrize("lens", [[1, 40, 16, 17, 15, 150], [64, 64, 64], [150]])
def test_sequences_side_by_side_do_not_mix(attention: AttentionBackend, lens: list[int]) -> None:
    """One iteration decodes some sequences and prefills chunks of others, all of random blocks."""
    model = ours("qwen2", attention)
    theirs, _ = reference("qwen2")
    arena = new_arena(model, 80)
    arena.normal_(0.0, 50.0)  # what other sessions left there
    blocks = torch.randperm(80, generator=torch.Generator().manual_seed(3)).tolist()
    texts = torch.randint(0, VOCAB_SIZE, (2 * len(lens), max(lens)))
    tables = []
    for length in lens * 2:
        count = -(-length // BLOCK_SIZE)
        tables.append(blocks[:count])
        blocks = blocks[count:]
    # Everything but the last token of the first half, and the first third of the second half.
    starts = [length - 1 for length in lens] + [length // 3 for length in lens]
    for text, table, start in zip(texts, tables, starts, strict=True):
        if start:
            logits_in_pieces(model, text[:start], [start], arena, table)
    spans = [Span(t, s, n) for t, s, n in zip(tables, starts, lens * 2, strict=True)]
    decodes, prefills = spans[: len(lens)], spans[len(lens) :]
    batch = AttentionBatch.from_spans(decodes, prefills, block_size=BLOCK_SIZE)
    ids = torch.cat([text[s:n] for text, (_, s, n) in zip(texts, spans, strict=True)])
    positions = torch.cat([torch.arange(s, n) for _, s, n in spans])
    logits = model.logits(model(ids, positions, arena, batch))
    expected = torch.cat(
        [
            expected_logits(theirs, text[:n])[s:]
            for text, (_, s, n) in zip(texts, spans, strict=True)
        ]
    )
    assert (logits - expected).abs().max() <= MAX_DIFFERENCE


def test_a_wrong_block_shows() -> None:
    """The comparison can fail: one block swapped for another changes the logits."""
    _, expected = reference("smollm2")
    model = ours("smollm2", cpu_attention)
    arena, table = new_arena(model, 12), scattered_table(NUM_TOKENS, 12)
    logits_in_pieces(model, context(), [NUM_TOKENS - 1], arena, table)
    table[2], table[4] = table[4], table[2]
    batch = AttentionBatch.from_spans(
        [Span(table, NUM_TOKENS - 1, NUM_TOKENS)], [], block_size=BLOCK_SIZE
    )
    hidden = model(context()[-1:], torch.tensor([NUM_TOKENS - 1]), arena, batch)
    # Keys carry their positions, so that order itself does not matter, only what is missing.
    assert (model.logits(hidden) - expected[-1]).abs().max() <= MAX_DIFFERENCE
    arena[:, :, table[2]] = 0.0
    hidden = model(context()[-1:], torch.tensor([NUM_TOKENS - 1]), arena, batch)
    assert (model.logits(hidden) - expected[-1]).abs().max() > 100 * MAX_DIFFERENCE


@BACKENDS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision_stays_near(
    attention: AttentionBackend, dtype: torch.dtype, tolerance: float
) -> None:
    """Differences from fp32, as a part of the spread of the logits."""
    _, expected = reference("llama3")
    model = ours("llama3", attention, dtype)
    table = scattered_table(NUM_TOKENS, 12)
    ends = [100, *range(101, NUM_TOKENS + 1)]
    logits = logits_in_pieces(model, context(), ends, new_arena(model, 12), table)
    assert logits.dtype == dtype
    error = (logits.float() - expected).abs().mean() / expected.std()
    print(f"{dtype}: {error:.1e}")
    assert 1e-6 < error < tolerance
