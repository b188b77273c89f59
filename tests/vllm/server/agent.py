"""An agent and strangers, as clients of a real server."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlkv.real_vllm.player import said_of
from rlkv.real_vllm.server import VllmServer, cached_of, tokens_of
from rlkv.real_vllm.traffic import random_tokens

#: Of the device pool, one of them vLLM's own.
NUM_BLOCKS = 100
TOOL = "search"
#: No lease ends in a test by itself.
LONG_S = 600.0


def text(seed: int, num: int) -> list[int]:
    """So many random tokens; other seeds give others."""
    return random_tokens(np.random.default_rng(seed), num)


class Agent:
    """A session with a tool: its context grows with every turn."""

    def __init__(self, server: VllmServer, name: str, seed: int, start: list[int] | None = None):
        self.server, self.name, self._seed = server, name, 1000 * seed
        self.context: list[int] = list(start or [])
        self.turns = 0
        #: Of the last turn.
        self.prompt: list[int] = []
        self.answer: list[int] = []
        self.cached = 0

    def turn(self, new_tokens: int, output_tokens: int = 8, **said: Any) -> None:
        """One turn: what is new, and an answer that calls a tool."""
        self.prompt = self.context + text(self._seed + self.turns, new_tokens)
        hint = {"tool": TOOL, **said}
        body = said_of(self.name, self.turns, **hint)
        answered = self.server.complete(self.prompt, output_tokens, **body)
        self.answer, self.cached = tokens_of(answered), cached_of(answered)
        self.context = self.prompt + self.answer
        self.turns += 1

    def end(self) -> None:
        """A last word: nothing of it is needed any more."""
        self.turn(1, 1, ends=True)

    def uncached_answer(self) -> list[int]:
        """What the last turn's prompt is answered by a server that knows nothing of it."""
        answered = self.server.complete(
            self.prompt,
            len(self.answer),
            cache_salt=self.name,
            **said_of(f"{self.name}-uncached", 0, ends=True),
        )
        assert cached_of(answered) == 0
        return tokens_of(answered)


def press(server: VllmServer, seed: int, num: int = 10, length: int = 600) -> None:
    """Strangers fill the memory, one after the other; what they leave is cache for who wants it."""
    for i in range(num):
        said = said_of(f"stranger-{seed}-{i}", 0, verb="preserve", lease_s=0.0)
        server.complete(text(10**6 + 100 * seed + i, length), 1, **said)
