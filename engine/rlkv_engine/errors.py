"""The error tree of rlkv: everything we raise on purpose is an ``RlkvError``."""

from __future__ import annotations

from pathlib import Path


class RlkvError(Exception):
    """Base of all errors of rlkv; ``exit_code`` is what the command line returns."""

    exit_code = 1


class InputError(RlkvError):
    """Something a user handed us cannot be used.

    The message is one line: ``place: reason``, where the place is a file (with its line where
    there is one) or the name of an option.
    """

    exit_code = 2

    def __init__(self, reason: str, *, path: Path | str | None = None, line: int | None = None):
        place = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(f"{place}{reason}")
        self.reason = reason
        self.path = path
        self.line = line


class IntegrityError(RlkvError):
    """The bookkeeping of the memory state does not add up: a bug in rlkv, never a user's."""
