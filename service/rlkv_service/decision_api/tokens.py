"""Bearer tokens: a file of their hashes, one a line, read again when it changes.

    NAME sha256:HEX [REQUESTS_PER_S]

A token is 256 random bits, so one round of SHA-256 is as good as a slow hash: there is nothing to
guess, and a request pays a microsecond for it instead of the 50 ms that scrypt would take.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from rlkv_engine.errors import InputError

_PREFIX = "rlkv_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Token:
    """Whoever may ask."""

    name: str
    digest: bytes  # SHA-256
    #: How often; None: what the server allows everybody.
    requests_per_s: float | None = None


class TokenFile:
    """The tokens of a file, as it is now.

    A file that cannot be read any more lets nobody in: ``problem`` says why.

    Args:
        path: of the file.

    Raises:
        InputError: it cannot be read; the text names the line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, ...] | None = _stamp(path)
        self._tokens = read_tokens(path)
        if not self._tokens:
            raise InputError("no token in it: rlkv token new NAME makes one", path=path)
        self.problem: str | None = None

    def find(self, presented: str) -> Token | None:
        """The token that was presented; None: it is none of ours."""
        self._refresh()
        digest = hashlib.sha256(presented.encode(errors="surrogateescape")).digest()
        found = None
        # All of them, whichever fits: how long it takes says nothing.
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found

    def _refresh(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp, self.problem = stamp, None
        try:
            self._tokens = read_tokens(self._path)
        except InputError as error:
            self._tokens, self.problem = (), str(error)


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens of a file.

    Raises:
        InputError: it cannot be read; the text names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot be read: {reason}", path=path) from error
    tokens: dict[str, Token] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        token = _token(words, path, number)
        if token.name in tokens:
            raise InputError(f"{token.name} is there twice", path=path, line=number)
        tokens[token.name] = token
    return tuple(tokens.values())


def add_token(path: Path, name: str, requests_per_s: float | None = None) -> str:
    """Makes a token and appends its hash to a file, which only its owner can read.

    Returns:
        The token. It is not kept anywhere.

    Raises:
        InputError: the name is impossible or taken, or the file cannot be used.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name: letters, digits and ._@-, at most 64")
    if requests_per_s is not None and not 0.0 < requests_per_s < float("inf"):
        raise InputError(f"requests per second must be above 0 (got {requests_per_s:g})")
    before = read_tokens(path) if path.exists() else ()
    if any(token.name == name for token in before):
        raise InputError(f"there is a token of {name} already: remove its line first", path=path)
    token = _PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(token.encode()).hexdigest()
    line = f"{name} sha256:{digest}"
    if requests_per_s is not None:
        line += f" {requests_per_s:g}"
    _append(path, line)
    return token


def _token(words: list[str], path: Path, line: int) -> Token:
    found = _HASH.fullmatch(words[1]) if len(words) in (2, 3) else None
    if found is None or not _NAME.fullmatch(words[0]):
        # Of the line itself nothing: somebody may have put a token there.
        raise InputError("not NAME sha256:HEX [REQUESTS_PER_S]", path=path, line=line)
    rate = None
    if len(words) == 3:
        try:
            rate = float(words[2])
        except ValueError:
            rate = 0.0
        if not 0.0 < rate < float("inf"):
            reason = f"{words[2]!r} is no number of requests per second"
            raise InputError(reason, path=path, line=line)
    return Token(words[0], bytes.fromhex(found[1]), rate)


def _append(path: Path, line: str) -> None:
    try:
        old = path.read_bytes() if path.exists() else b""
        joint = b"" if not old or old.endswith(b"\n") else b"\n"
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(number, "wb") as file:
            file.write(joint + line.encode() + b"\n")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", path=path) from error


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
