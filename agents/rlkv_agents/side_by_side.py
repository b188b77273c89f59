"""Runs of the engine on all cores of this process: compiled code lets other threads go on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_num_threads: int | None = None


def use_threads(num_threads: int) -> None:
    """So many from now on: one in each of several processes that share the cores."""
    global _num_threads
    _num_threads = num_threads


def each(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """``work`` of every item, in their order; several at a time, as results are asked for.

    What is still waiting when the iterator is closed, or raises, is not begun.
    """
    num_threads = _num_threads or len(os.sched_getaffinity(0))
    if min(num_threads, len(items)) <= 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(min(num_threads, len(items)))
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)
