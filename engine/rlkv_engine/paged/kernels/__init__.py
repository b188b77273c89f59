"""Triton kernels of the paged KV cache, one file each, with its torch reference beside it.

Importing a module of this package imports triton; importing ``rlkv_engine.paged`` does not.

Layout that all of them share: the KV of one layer is
``kv_cache [2, num_blocks, block_size, num_kv_heads, head_dim]`` (keys, then values), contiguous, so
that a token's KV of one layer and a block's KV of one layer are each one contiguous run. Slot
``block_id * block_size + offset`` is the place of a token.
"""
