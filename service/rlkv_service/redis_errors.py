"""What can go wrong with Redis or Valkey."""

from __future__ import annotations

from rlkv_engine.errors import RlkvError


class RedisError(RlkvError):
    """The server cannot be reached, does not speak RESP, or has closed the connection."""


class RedisTimeout(RedisError):
    """The deadline passed."""


class RedisReplyError(RedisError):
    """The server refused a command; the text is its own."""
