"""Of several processes that need the same function compiled, one does it while the others wait.

numba's cache on the disk is for the next process: two that begin together compile everything twice,
as workers of a pool or of the tests do after each edit of the engine, a minute or two of each.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numba.core.compiler_lock import global_compiler_lock

#: Whoever compiles for longer than this has been stopped, or hangs: then everybody for himself.
PATIENCE_S = 300.0
_LOOK_S = 0.02


def compile_in_turn(dispatcher: Any) -> None:
    """Lets a compiled function be compiled, or read from the disk, by one process at a time."""
    folder = dispatcher._cache.cache_path  # None: it is not kept on the disk
    if folder is None:
        return
    code = dispatcher.py_func.__code__
    path = Path(folder) / f"{code.co_name}-{code.co_firstlineno}.lock"
    compile_now, is_mine = dispatcher.compile, False

    def compile_signature(signature: Any) -> Any:
        nonlocal is_mine
        # Threads first: one that waits for another process must not hold up one that it waits for.
        with global_compiler_lock:
            if is_mine:  # a recursive function needs itself
                return compile_now(signature)
            with turn(path):
                is_mine = True
                try:
                    return compile_now(signature)
                finally:
                    is_mine = False

    dispatcher.compile = compile_signature


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Holds a lock between processes, which ends with its process whatever happens.

    A function is locked while those that it calls are compiled: nobody waits in a circle, as no
    two functions call each other.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError:  # where nothing can be written nothing is kept either
        yield
        return
    with file:
        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= give_up_s:
                    break
                time.sleep(_LOOK_S)
                continue
            except OSError:  # a file system without locks
                pass
            break
        yield
