"""Reads answers while they pass, whole or as server-sent events, in the words of four APIs.

For every piece of a stream this is what the proxy does on top of passing it, so it parses what it
needs and nothing else: ``Choice`` structs of msgspec ignore the rest.
"""

from __future__ import annotations

import time

import msgspec

from rlkv_service.proxy.answer_parts import AnswerParts
from rlkv_service.proxy.answers import Answer
from rlkv_service.proxy.messages_answers import MessagesParts
from rlkv_service.proxy.openai_answers import OpenAIParts
from rlkv_service.proxy.requests import Kind
from rlkv_service.proxy.responses_answers import ResponsesParts

#: Of an answer so much is kept until it is over; of a longer one nothing is known.
_MAX_BYTES = 16 * 2**20
_DATA = b"data:"
_PARTS: dict[Kind, type[AnswerParts]] = {
    Kind.CHAT: OpenAIParts,
    Kind.COMPLETIONS: OpenAIParts,
    Kind.MESSAGES: MessagesParts,
    Kind.RESPONSES: ResponsesParts,
}


class AnswerReader:
    """Takes a response's body as it passes.

    Args:
        kind: of the request.
        streams: whether it is server-sent events.
    """

    def __init__(self, kind: Kind, streams: bool) -> None:
        self._streams = streams
        self._parts = _PARTS[kind]()
        self._tail = b""
        self._whole: list[bytes] = []
        self._num_bytes = 0
        self._is_readable = True
        #: Whether a stream has said its last word; the end of its body may come later.
        self.is_over = False

    def feed(self, piece: bytes) -> None:
        """More of the body."""
        self._num_bytes += len(piece)
        if self._num_bytes > _MAX_BYTES:
            self._is_readable = False
            self._whole.clear()
        if not self._is_readable:
            return
        if not self._streams:
            self._whole.append(piece)
            return
        lines = (self._tail + piece).split(b"\n")
        self._tail = lines.pop()
        for line in lines:
            if line.startswith(_DATA):
                self._take(line[len(_DATA) :].strip())

    def answer(self) -> Answer | None:
        """What was said, perhaps not to its end; None: it cannot be read."""
        if self._is_readable and self._whole:
            self._take(b"".join(self._whole))
        if not self._is_readable:
            return None
        answer = self._parts.answer
        answer.choices = [self._parts.choice(index) for index in sorted(self._parts.texts)]
        return answer

    def _take(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.is_over = True
            return
        answer = self._parts.answer
        answer.num_pieces += 1
        if answer.first_piece_s is None:
            answer.first_piece_s = time.monotonic()
        try:
            self._parts.take(data)
            self.is_over = self._parts.is_over
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            self._is_readable = False
