"""One answer in the making: tokens in, text and tool calls out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rlkv_service.openai_server.deltas import Delta, Text
from rlkv_service.openai_server.detokenizer import Detokenizer
from rlkv_service.openai_server.stop_strings import StopStrings
from rlkv_service.openai_server.tool_call_parser import ToolCallParser

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FinishReason = Literal["stop", "length", "tool_calls"]
#: Who is waited for after an answer without tool calls.
HUMAN = "human"


class Turn:
    """Makes an answer of tokens, and says when it is over and what comes after it.

    Args:
        tokenizer: of the model.
        prompt: token ids before the answer.
        stop: strings that end it; they are not part of it.
        parser: of tool calls; None: the answer is text.
        beginning: how the answer begins, the end of the prompt.
        one_call: whether the first call ends the answer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Sequence[int],
        *,
        stop: Sequence[str] = (),
        parser: ToolCallParser | None = None,
        beginning: str = "",
        one_call: bool = False,
    ) -> None:
        self._text = Detokenizer(tokenizer, prompt)
        self._stop = StopStrings(stop)
        self._parser = parser
        self._one_call = one_call
        self.num_tokens = 0
        #: None: it goes on.
        self.finish_reason: FinishReason | None = None
        self._begun = self._parse(beginning)

    @property
    def tool(self) -> str:
        """Whom the session waits for once the answer is over; of several tools the first called."""
        called = self._parser.called if self._parser is not None else []
        return called[0] if self.finish_reason == "tool_calls" else HUMAN

    def push(self, token: int, end: Literal["stop", "length"] | None) -> list[Delta]:
        """What a token brings; ``end`` is why it is the last one, "stop": it is not text itself."""
        self.num_tokens += 1
        deltas, self._begun = self._begun, []
        text = "" if end == "stop" else self._text.push(token)
        text, stopped = self._stop.push(text)
        deltas += self._parse(text)
        one_call = self._one_call and self._parser is not None and bool(self._parser.called)
        if stopped or one_call:
            end = "stop"
        elif end is not None:
            text, stopped = self._stop.push(self._text.flush())
            deltas += self._parse(text if stopped else text + self._stop.flush())
            end = "stop" if stopped else end
        if end is not None:
            deltas += self._end(end, one_call)
        return deltas

    def _parse(self, text: str) -> list[Delta]:
        if self._parser is not None:
            return self._parser.push(text)
        return [Text(text)] if text else []

    def _end(self, end: Literal["stop", "length"], one_call: bool) -> list[Delta]:
        self.finish_reason = end
        if self._parser is None:
            return []
        # Behind the one call that was asked for nothing counts.
        deltas = [] if one_call else self._parser.flush()
        if self._parser.called and end == "stop":
            self.finish_reason = "tool_calls"
        return deltas
