"""Threads of compiled loops."""

from __future__ import annotations

import numba
import torch

#: Multiplications below which one thread is done before others have started: some 50 us.
MIN_SHARED_PRODUCTS = 1 << 20


def share_among_threads(num_products: int) -> bool:
    """Whether a compiled loop shares its work among threads, as many as torch has.

    numba and torch may share one OpenMP library, and numba then resets the number that torch was
    given when it starts its threads; we set it again.

    Args:
        num_products: Multiplications of the whole loop.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1 or num_products < MIN_SHARED_PRODUCTS:
        return False
    available: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(num_threads, available))
    if torch.get_num_threads() != num_threads:
        torch.set_num_threads(num_threads)
    return True
