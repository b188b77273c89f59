"""Compilation: ``@jit`` is numba's njit with a disk cache that notices every edit of the engine.

numba keys its cache on the file of the compiled function alone, so that an edit of a callee in
another file would go unnoticed. We key the cache folder on the text of the whole engine, and of the
package whose function it is: compiled code calls only its own package and the engine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from rlkv_engine.compile_in_turn import compile_in_turn

F = TypeVar("F", bound=Callable[..., Any])

_ENGINE = Path(__file__).parent

#: What the compiler may assume of floats: everything but the absence of infinities and NaNs.
_VECTOR_MATH = {"contract", "nsz", "reassoc"}


@cache
def _cache_dir(package: Path) -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for folder in sorted({_ENGINE, package}):
        for source in sorted(folder.glob("*.py")):
            digest.update(source.read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return str(base / "rlkv" / "numba" / digest.hexdigest()[:16])


def jit(function: F) -> F:
    """Compile in nopython mode, cached on disk, without reference counting.

    Nothing compiled here allocates: every array comes from the caller, who keeps it alive. Without
    counting, compiling takes a fraction of the time.
    """
    return _compiled(function)


def jit_inline(function: F) -> F:
    """Like ``jit``, and copied into its callers: for what one caller calls in every iteration.

    A call that passes a state pushes a hundred words, every pointer and length of its arrays: more
    work than most functions of the loop do.
    """
    return _compiled(function, inline=True)


def jit_run(function: F) -> F:
    """Like ``jit``, for what Python calls and what takes long: other threads run meanwhile."""
    return _compiled(function, nogil=True)


def jit_vector(function: F) -> F:
    """Like ``jit``, for the arithmetic of a model, not for what a plan depends on.

    Sums may be added up in another order, so that they use vectors; other threads run meanwhile.
    """
    return _compiled(function, nogil=True, fastmath=_VECTOR_MATH)


def jit_parallel(function: F) -> F:
    """Like ``jit_vector``, with every ``prange`` shared out among numba's threads.

    numba's cache does not tell the two apart: a function can be one or the other, never both.
    """
    return _compiled(function, nogil=True, fastmath=_VECTOR_MATH, parallel=True)


def _compiled(function: F, inline: bool = False, **options: Any) -> F:
    # An explicit NUMBA_CACHE_DIR of the user wins.
    if not os.environ.get("NUMBA_CACHE_DIR"):
        folder = Path(function.__code__.co_filename).parent
        numba.config.CACHE_DIR = _cache_dir(folder)  # type: ignore[attr-defined]
    compiled = numba.njit(  # type: ignore[call-overload]
        cache=True, error_model="numpy", _nrt=False, forceinline=inline, **options
    )(function)
    if hasattr(compiled, "compile"):  # not with NUMBA_DISABLE_JIT
        compile_in_turn(compiled)
    return cast(F, compiled)
