from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rlkv_engine.paged.kernels.context_splits import MAX_SPLITS, split_contexts


@given(
    st.lists(st.tuples(st.integers(1, 200_000), st.integers(1, 64)), min_size=1, max_size=300),
    st.integers(1, 200),
    st.integers(0, 3000),
)
def test_splits_cover_every_context_within_bounds(
    contexts: list[tuple[int, int]], num_processors: int, more_tokens: int
) -> None:
    lens, programs = zip(*contexts, strict=True)
    num_tokens = len(lens) + more_tokens
    splits = split_contexts(lens, programs, num_tokens, num_processors)
    assert splits.split_tokens * splits.num_splits >= max(lens)
    # And the last one is not empty for the longest.
    assert splits.split_tokens * (splits.num_splits - 1) < max(lens)
    assert 1 <= splits.num_splits <= MAX_SPLITS
    assert splits.num_splits == 1 or splits.num_splits * num_tokens <= 4096
    assert splits.split_tokens % 64 == 0


def test_one_long_context_fills_the_device() -> None:
    splits = split_contexts([32_768], [8], 1, 132)
    assert 2 * 132 <= 8 * splits.num_splits <= 8 * 132


def test_many_contexts_are_not_split() -> None:
    assert split_contexts([4096] * 256, [8] * 256, 256, 132).num_splits == 1


def test_a_long_context_among_short_ones_is_split() -> None:
    assert split_contexts([16_384] + [64] * 31, [8] * 32, 32, 132).num_splits >= 8
