"""Reads files line by line with bounded memory; every failure is an ``InputError``."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlkv_engine.errors import InputError

#: A longer line is refused before it is loaded; the longest real one seen is 0.3 MiB.
MAX_LINE_BYTES = 16 * 2**20
#: A whole-file JSON document longer than this (after decompression) is refused.
MAX_DOCUMENT_BYTES = 64 * 2**20

_GZIP_MAGIC = b"\x1f\x8b"


@contextmanager
def open_binary(path: Path | str) -> Iterator[io.BufferedIOBase]:
    """Opens a plain or gzip file (told apart by its magic bytes) for reading bytes.

    Raises:
        InputError: the file cannot be opened or read, or its gzip data is damaged. Errors that
            happen while the caller reads inside the ``with`` block are covered too.
    """
    try:
        with open(path, "rb") as plain:
            if plain.peek(2)[:2] == _GZIP_MAGIC:
                with gzip.GzipFile(fileobj=plain) as unpacked:
                    yield unpacked
            else:
                yield plain
    except EOFError as error:
        raise InputError("gzip data ends too early (truncated file?)", path=path) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"damaged gzip data: {error}", path=path) from error
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror or error}", path=path) from error


def read_lines(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """Yields ``(line number from 1, line without its end)``, blank lines left out.

    Raises:
        InputError: as ``open_binary``, or a line is longer than ``MAX_LINE_BYTES``.
    """
    with open_binary(path) as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                limit = MAX_LINE_BYTES // 2**20
                raise InputError(f"line longer than {limit} MiB", path=path, line=number)
            line = line.strip()
            if line:
                yield number, line


def read_head(path: Path | str, num_bytes: int = 2**16) -> bytes:
    """The first bytes of a file after decompression."""
    with open_binary(path) as stream:
        return stream.read(num_bytes)


def read_document(path: Path | str) -> bytes:
    """The whole file after decompression, at most ``MAX_DOCUMENT_BYTES``."""
    with open_binary(path) as stream:
        document = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(document) > MAX_DOCUMENT_BYTES:
        limit = MAX_DOCUMENT_BYTES // 2**20
        raise InputError(f"document longer than {limit} MiB", path=path)
    return document
