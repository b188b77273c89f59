"""What was sent over a connection, in order, and who waits for each reply."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from rlkv_service.redis_errors import RedisError
from rlkv_service.resp_parser import Reply, Word, encode_command

#: Takes a reply, which may be a RedisReplyError; raises RedisError where it cannot be right.
OnReply = Callable[[Reply], None]


class Line:
    """Of one connection; no socket here."""

    def __init__(self) -> None:
        self._waiting: deque[OnReply] = deque()

    def command(self, on_reply: OnReply, *words: Word) -> bytes:
        """The bytes of a command, whose reply goes there."""
        return self.encoded(on_reply, encode_command(*words))

    def encoded(self, on_reply: OnReply, raw: bytes) -> bytes:
        """The same for a command that is bytes already."""
        self._waiting.append(on_reply)
        return raw

    def take(self, replies: Iterable[Reply]) -> None:
        """Hands replies to those who wait for them.

        Raises:
            RedisError: they do not fit the commands; nothing on this connection can be trusted.
        """
        for reply in replies:
            if not self._waiting:
                raise RedisError(f"a reply to nothing: {str(reply)[:80]}")
            self._waiting.popleft()(reply)

    def __len__(self) -> int:
        """Commands without a reply."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether every command has its reply."""
        return not self._waiting
