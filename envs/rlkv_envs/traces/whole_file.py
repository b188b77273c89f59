"""Writes files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from rlkv_engine.errors import InputError


@contextmanager
def whole_file(path: Path | str) -> Iterator[IO[bytes]]:
    """Opens a temporary file that takes the place of ``path`` when the block ends well.

    On any failure an earlier file stays as it was and nothing is left behind.

    Raises:
        InputError: the folder or the file cannot be written to.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as stream:
            temporary = stream.name
            yield stream
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror or error}", path=path) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files below a folder, which is made if missing.

    None takes its place before all are written; then they do so in the order given.

    Raises:
        InputError: the folder or a file cannot be written to.
    """
    with ExitStack() as stack:
        for name, content in reversed(list(files.items())):
            path = folder / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"cannot write: {error.strerror or error}", path=folder) from error
            if path.is_dir():
                raise InputError("cannot write: there is a folder of this name", path=path)
            stack.enter_context(whole_file(path)).write(content)
