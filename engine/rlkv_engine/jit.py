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

F = TypeVar("F", bound=Callable[..., Any])

_ENGINE = Path(__file__).parent


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
    return _compiled(function, inline=False)


def jit_inline(function: F) -> F:
    """Like ``jit``, and copied into its callers: for what one caller calls in every iteration.

    A call that passes a state pushes a hundred words, every pointer and length of its arrays: more
    work than most functions of the loop do.
    """
    return _compiled(function, inline=True)


def _compiled(function: F, inline: bool) -> F:
    # An explicit NUMBA_CACHE_DIR of the user wins.
    if not os.environ.get("NUMBA_CACHE_DIR"):
        folder = Path(function.__code__.co_filename).parent
        numba.config.CACHE_DIR = _cache_dir(folder)  # type: ignore[attr-defined]
    compiled = numba.njit(  # type: ignore[call-overload]
        cache=True, error_model="numpy", _nrt=False, forceinline=inline
    )(function)
    return cast(F, compiled)
