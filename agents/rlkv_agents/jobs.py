"""Independent jobs on one or several processes, each with one thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlkv_agents.side_by_side import use_threads
from rlkv_engine.errors import InputError, RlkvError

#: Each process computes on one core: more threads would only wait for each other.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Job:
    """Work that can be pickled, and a guess of what it costs."""

    work: partial[Any]
    cost: int  #: engine runs


def check_workers(said: int | None) -> int:
    """Processes to use; None: one for each core this process may use.

    Raises:
        InputError: fewer than one.
    """
    if said is not None and said < 1:
        raise InputError(f"--workers must be 1 or more, got {said}")
    return said or len(os.sched_getaffinity(0))


def run_jobs(
    jobs: Sequence[Job],
    num_workers: int,
    on_result: Callable[[int, Any], None],
) -> None:
    """Run every job; ``on_result(index, result)`` is called here, as results come.

    Raises:
        RlkvError: a process died (out of memory, or killed).
    """
    if num_workers == 1 or len(jobs) <= 1:
        for i, job in enumerate(jobs):
            on_result(i, job.work())
        return
    # Read when a process starts; afterwards this one may want its threads.
    set_here = [variable for variable in _ONE_THREAD if variable not in os.environ]
    os.environ.update(dict.fromkeys(set_here, "1"))
    others = set(multiprocessing.active_children())
    # Spawned, not forked: a fork in the middle of numba or BLAS may hang.
    pool = ProcessPoolExecutor(
        min(num_workers, len(jobs)), multiprocessing.get_context("spawn"), _begin
    )
    try:
        # The longest first, so that no worker is left with a long one at the end.
        order = sorted(range(len(jobs)), key=lambda i: -jobs[i].cost)
        places: dict[Future[Any], int] = {pool.submit(jobs[i].work): i for i in order}
        for future in as_completed(places):
            on_result(places[future], future.result())
    except BrokenProcessPool as error:
        raise RlkvError(
            "a worker process died: what is finished is kept, the same command goes on"
        ) from error
    except BaseException:
        # Whoever interrupts does not wait for the jobs under way.
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        for variable in set_here:
            del os.environ[variable]


def _begin() -> None:
    use_threads(1)
    # Not in our own environment: numba minds when it changes under threads that run.
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    # Ctrl-C reaches every process of the terminal; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
