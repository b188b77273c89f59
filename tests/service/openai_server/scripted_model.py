"""A model that says what a script wants, and reads all it knows from its KV.

In a chat it answers the last message as ``answer`` does; elsewhere it says the alphabet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkv_engine.paged.tiny_tokenizer import IM_END, IM_START, VOCAB_SIZE, tiny_tokenizer
from tests.engine.paged.summing_model import NUM_LAYERS, SummingModel

TOKENIZER = tiny_tokenizer()
END: int = TOKENIZER.convert_tokens_to_ids(IM_END)
_START = TOKENIZER.convert_tokens_to_ids(IM_START)
_ASSISTANT = TOKENIZER("assistant\n")["input_ids"]


def encode(text: str) -> list[int]:
    # What transformers wraps is quicker, and here it is asked for every token.
    return list(TOKENIZER.backend_tokenizer.encode(text, add_special_tokens=False).ids)


def decode(tokens: Sequence[int]) -> str:
    return str(TOKENIZER.backend_tokenizer.decode(list(tokens), skip_special_tokens=False))


def tool_call(name: str, arguments: dict[str, Any]) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def answer(prompt: str) -> str:
    """The answer to the last message of a chat, which may ask for a certain one.

    ``say TEXT`` wants the text, ``count N`` numbers, ``call A B`` calls of these tools.
    """
    role, said = re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", prompt, re.DOTALL)[-1]
    assert role == "user"
    if found := re.search(r"<tool_response>\n(.*)\n</tool_response>", said, re.DOTALL):
        return f"The tool says {found[1]}."
    verb, _, rest = said.partition(" ")
    if verb == "say":
        return str(rest)
    if verb == "count":
        return " ".join(map(str, range(int(rest))))
    if verb == "call":
        return "\n".join(tool_call(name, {"query": f"{name}?"}) for name in rest.split())
    return f"You said: {said}"


class ScriptedModel(SummingModel):
    def __init__(self, script: Callable[[str], str] = answer) -> None:
        super().__init__(torch.device("cpu"))
        self._script = script
        self._answer = lru_cache(1000)(self._read_and_answer)

    def logits(self, hidden: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(hidden[:, 0], VOCAB_SIZE).float()

    def _read(self, arena: Tensor, table: Tensor, length: int) -> int:
        block_size = arena.shape[3]
        position = np.arange(length)
        blocks = table.numpy()[position // block_size]
        stored = arena.numpy()[:, :, blocks, position % block_size]
        numbers = stored[0, 0, :, 0, 0]
        assert np.all(stored == numbers[:, None, None]), "some KV is not that of its token"
        return self._next((numbers.astype(int) - 1).tolist())

    def _read_and_answer(self, prompt: tuple[int, ...]) -> str:
        return self._script(decode(prompt))

    def _next(self, tokens: list[int]) -> int:
        if _START not in tokens:
            last = decode(tokens)[-1]
            return END if last == "z" else encode(chr(ord(last) + 1))[0]
        begins = len(tokens) - tokens[::-1].index(_START) + len(_ASSISTANT)
        said = decode(tokens[begins:])
        if tokens[begins - len(_ASSISTANT) : begins] != _ASSISTANT:
            return END  # in the middle of a prompt, where nobody asks
        whole = self._answer(tuple(tokens[:begins]))
        # No token here is longer than that.
        rest = encode(whole[len(said) :][:24]) if whole.startswith(said) else []
        return int(rest[0]) if rest else END


@dataclass(frozen=True)
class ScriptedConfig:
    vocab_size: int = VOCAB_SIZE
    max_position_embeddings: int = 4096
    eos_token_ids: tuple[int, ...] = (END,)
    num_layers: int = NUM_LAYERS
    num_kv_heads: int = 1
    head_dim: int = 2


@dataclass(frozen=True)
class ScriptedLoaded:
    config: ScriptedConfig = field(default_factory=ScriptedConfig)
    model: ScriptedModel = field(default_factory=ScriptedModel)
    tokenizer: Any = TOKENIZER
    name: str = "scripted"
