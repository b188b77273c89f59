"""Threads of compiled loops."""

from __future__ import annotations

import numba
import torch


def kernel_threads() -> int:
    """Threads that a compiled loop shares its work among: as many as torch would.

    numba and torch may share one OpenMP library, and numba then resets the number that torch was
    given when it starts its threads; we set it again.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1:
        return 1
    available: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(num_threads, available))
    if torch.get_num_threads() != num_threads:
        torch.set_num_threads(num_threads)
    return num_threads
