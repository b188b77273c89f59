"""transformers, imported only when a model or a tokenizer is loaded, and what we ask of it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from rlkv_engine.errors import InputError

#: What a user installs to load models.
INSTALL = "pip install 'rlkv[engine]'"

#: Any of these files says that a folder has a tokenizer.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


def import_extra(name: str) -> Any:
    """A package of the extra ``engine``; ``InputError`` says how to install it where it is not."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"this needs the package {name}: {INSTALL} ({error})") from error


def read_config(folder: Path) -> Any:
    """The transformers configuration of a folder.

    Raises:
        InputError: There is none, or transformers cannot make sense of it.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError("no such file: a model folder has one", path=path)
    transformers = import_extra("transformers")
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever a broken file makes transformers raise
        raise InputError(_first_line(error), path=path) from error


def read_tokenizer(folder: Path, **options: Any) -> Any | None:
    """The tokenizer of a folder, with its chat template; None where the folder has none.

    Args:
        folder: Where its files are.
        options: More arguments of transformers, such as ``gguf_file``.

    Raises:
        InputError: transformers cannot make sense of it.
    """
    has_one = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    if not has_one and "gguf_file" not in options:
        return None
    transformers = import_extra("transformers")
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:  # as above
        raise InputError(f"tokenizer: {_first_line(error)}", path=folder) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
