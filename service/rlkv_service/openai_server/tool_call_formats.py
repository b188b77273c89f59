"""How chat templates have models write tool calls."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ToolCallFormat:
    """A call is a JSON object with a name and arguments.

    With ``opening`` and ``closing`` calls stand between these marks, anywhere in the answer.
    Without them the answer is nothing but calls, one after the other with semicolons between.
    """

    opening: str
    closing: str
    arguments_key: str

    def beginning(self, name: str | None) -> str:
        """The beginning of a call of ``name``, or of any tool, to be continued by the model."""
        start = self.opening + ("\n" if self.opening else "")
        if name is None:
            return start + '{"name": "'
        return f'{start}{{"name": {json.dumps(name)}, "{self.arguments_key}": '


#: Hermes, Qwen 2 and 2.5, SmolLM: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``.
HERMES = ToolCallFormat("<tool_call>", "</tool_call>", "arguments")
#: Llama 3: ``{"name": ..., "parameters": {...}}``.
LLAMA3 = ToolCallFormat("", "", "parameters")


def find_format(chat_template: str | None) -> ToolCallFormat | None:
    """The format that a chat template asks for; None: it has no tools, or in a way unknown here."""
    if chat_template is None or "tools" not in chat_template:
        return None
    if HERMES.opening in chat_template:
        return HERMES
    # Its prompt says: {"name": function name, "parameters": dictionary of ...}.
    return LLAMA3 if '"parameters"' in chat_template else None
