"""What can go wrong with Redis or Valkey."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rlkv_engine.errors import RlkvError


class RedisError(RlkvError):
    """The server cannot be reached, does not speak RESP, or has closed the connection."""


class RedisTimeout(RedisError):
    """The deadline passed."""


class RedisReplyError(RedisError):
    """The server refused a command; the text is its own."""


@contextmanager
def reply_to(command: str) -> Iterator[None]:
    """Takes a reply apart: one that the command does not have is a ``RedisError``, not a bug."""
    try:
        yield
    except RedisError:
        raise
    except (RlkvError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise RedisError(f"no reply to {command}: {error}") from error
