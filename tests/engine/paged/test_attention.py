"""Both backends against attention written out for one sequence at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlkv_engine.paged import threads
from rlkv_engine.paged.attention_base import AttentionBackend
from rlkv_engine.paged.attention_batch import AttentionBatch, Span
from rlkv_engine.paged.attention_cpu import cpu_attention
from rlkv_engine.paged.attention_torch import group_by_length, torch_attention

BACKENDS = pytest.mark.parametrize("attention", [cpu_attention, torch_attention])


def scattered_spans(lens: list[tuple[int, int]], block_size: int, num_blocks: int) -> list[Span]:
    blocks = torch.randperm(num_blocks).tolist()
    spans = []
    for start, end in lens:
        count = -(-end // block_size)
        spans.append(Span(blocks[:count], start, end))
        blocks = blocks[count:]
    return spans


def dense(query: Tensor, kv_cache: Tensor, spans: list[Span], scale: float) -> Tensor:
    """Causal attention over what the cache holds, in fp64."""
    outputs, first = [], 0
    for table, start, end in spans:
        q = query[first : first + end - start].double()
        first += end - start
        keys, values = kv_cache[:, torch.tensor(table)].double().flatten(1, 2)[:, :end]
        group = q.shape[1] // keys.shape[1]
        keys, values = (x.repeat_interleave(group, 1) for x in (keys, values))
        scores = torch.einsum("qhd,khd->hqk", q, keys) * scale
        future = torch.arange(end) > torch.arange(start, end)[:, None]
        weights = scores.masked_fill(future, -torch.inf).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(outputs)


@settings(max_examples=40)
@given(data=st.data())
@BACKENDS
def test_attention_equals_the_dense_one(attention: AttentionBackend, data: st.DataObject) -> None:
    block_size = data.draw(st.sampled_from([4, 16]))
    num_kv_heads, group = data.draw(st.sampled_from([(1, 1), (2, 4), (3, 3), (1, 8)]))
    head_dim = data.draw(st.sampled_from([4, 64, 80]))
    ends = st.integers(1, 3 * block_size + 1)
    decode_lens = data.draw(st.lists(ends, max_size=4))
    prefill_ends = data.draw(st.lists(ends, min_size=not decode_lens, max_size=3))
    prefill_lens = [(data.draw(st.integers(0, end - 1)), end) for end in prefill_ends]
    torch.manual_seed(data.draw(st.integers(0, 99)))
    spans = scattered_spans([(n - 1, n) for n in decode_lens] + prefill_lens, block_size, 40)
    decodes, prefills = spans[: len(decode_lens)], spans[len(decode_lens) :]
    batch = AttentionBatch.from_spans(decodes, prefills, block_size=block_size)
    num_tokens = len(batch.slot_mapping)
    num_heads = num_kv_heads * group
    # As in the decoder: views into one tensor.
    heads = torch.randn(num_tokens, num_heads + 2 * num_kv_heads, head_dim)
    query, key, value = heads.split([num_heads, num_kv_heads, num_kv_heads], 1)  # type: ignore[no-untyped-call]
    kv_cache = torch.randn(2, 40, block_size, num_kv_heads, head_dim)
    before = kv_cache.clone()
    output = attention(query, key, value, kv_cache, batch, 0.3)

    assert output.shape == query.shape
    assert output.is_contiguous()
    torch.testing.assert_close(
        output.double(), dense(query, kv_cache, spans, 0.3), atol=1e-5, rtol=1e-4
    )
    slots = kv_cache.flatten(1, 2)
    assert torch.equal(slots[:, batch.slot_mapping], torch.stack((key, value)))
    slots[:, batch.slot_mapping] = before.flatten(1, 2)[:, batch.slot_mapping]
    assert torch.equal(kv_cache, before)  # nothing else was written


@BACKENDS
def test_a_batch_serves_every_layer(attention: AttentionBackend) -> None:
    """What a backend keeps in the batch must not hold anything of one layer."""
    spans = scattered_spans([(39, 40), (8, 9), (5, 30)], 16, 12)
    batch = AttentionBatch.from_spans(spans[:2], spans[2:], block_size=16)
    for _ in range(3):
        query, key, value = (torch.randn(27, heads, 8) for heads in (4, 2, 2))
        kv_cache = torch.randn(2, 12, 16, 2, 8)
        output = attention(query, key, value, kv_cache, batch, 1.0)
        expected = dense(query, kv_cache, spans, 1.0)
        torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-4)


def test_two_threads_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "MIN_SHARED_PRODUCTS", 1)
    spans = scattered_spans([(n - 1, n) for n in (40, 9, 17)], 16, 12)
    query, key, value = (torch.randn(3, heads, 8) for heads in (4, 2, 2))
    kv_cache = torch.randn(2, 12, 16, 2, 8)
    outputs = []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        batch = AttentionBatch.from_spans(spans, [], block_size=16)
        outputs.append(cpu_attention(query, key, value, kv_cache, batch, 1.0))
        assert torch.get_num_threads() == num_threads
    torch.testing.assert_close(outputs[0], outputs[1])


@given(st.lists(st.integers(1, 200), max_size=30))
def test_groups_hold_everyone_and_little_padding(num_blocks: list[int]) -> None:
    groups = group_by_length(num_blocks)
    assert sorted(row for group in groups for row in group) == list(range(len(num_blocks)))
    for group in groups:
        assert group == sorted(group)
        sizes = [num_blocks[row] for row in group]
        assert min(sizes) >= max(sizes) / 2


def test_spans_become_slots_and_padded_tables() -> None:
    batch = AttentionBatch.from_spans(
        [Span([7, 3], 4, 5), Span([2], 0, 1)], [Span([5, 9, 1], 3, 9)], block_size=4
    )
    assert batch.slot_mapping.tolist() == [12, 8, 23, 36, 37, 38, 39, 4]
    assert batch.slot_mapping.dtype == torch.int64
    assert batch.num_decode == 2
    assert batch.decode_block_tables.tolist() == [[7, 3], [2, 0]]
    assert batch.decode_block_tables.dtype == torch.int32
    assert batch.decode_lens.tolist() == batch.decode_lens_cpu == [5, 1]
    assert batch.prefill_block_tables.tolist() == [[5, 9, 1]]
    assert batch.prefill_cu_seqlens.tolist() == batch.prefill_cu_seqlens_cpu == [0, 6]
    assert batch.prefill_lens.tolist() == batch.prefill_lens_cpu == [9]


@pytest.mark.parametrize(
    ("decodes", "prefills", "message"),
    [
        ([Span([1], 0, 2)], [], "one token"),
        ([], [Span([1], 2, 2)], "do not fit"),
        ([], [Span([1], 0, 5)], r"tokens \[0, 5\) do not fit 1 blocks of 4"),
    ],
)
def test_impossible_spans_are_refused(
    decodes: list[Span], prefills: list[Span], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionBatch.from_spans(decodes, prefills, block_size=4)
