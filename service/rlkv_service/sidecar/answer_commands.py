"""The commands that bring an answer to a client, as bytes: their heads are made once a client."""

from __future__ import annotations

from rlkv_service.redis_keys import ANSWERS_EXPIRE_S
from rlkv_service.resp_parser import encode_command

#: Clients whose commands are kept.
MAX_KEPT = 4096


class AnswerCommands:
    """``RPUSH`` of an answer and ``EXPIRE`` of the list, for any client. Of one thread."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[bytes, bytes]] = {}

    def __call__(self, reply_to: str, answer: bytes) -> bytes:
        """Both commands.

        Args:
            reply_to: key of the client's list.
            answer: the message.
        """
        kept = self._kept.get(reply_to)
        if kept is None:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()  # clients come and go
            push = encode_command("RPUSH", reply_to, b"")
            expire = encode_command("EXPIRE", reply_to, ANSWERS_EXPIRE_S)
            kept = self._kept[reply_to] = push.removesuffix(b"$0\r\n\r\n"), expire
        head, expire = kept
        return b"%b$%d\r\n%b\r\n%b" % (head, len(answer), answer, expire)
