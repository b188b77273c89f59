"""How long pauses last, by tool: means of what this engine has seen."""

from __future__ import annotations

from collections import OrderedDict

from rlkv_service.adapters.vllm.tool_names import HUMAN

#: What a human's pause is taken to last until some were seen, seconds.
FIRST_HUMAN_PAUSE_S = 30.0
#: Tools that are remembered; of more the one seen least recently goes.
MAX_TOOLS = 1024


class PauseMeans:
    """Running means of pauses, of each tool and of all."""

    def __init__(self) -> None:
        self._by_tool: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._num, self._sum_s = 0, 0.0

    def observe(self, tool: str, pause_s: float) -> None:
        """A pause is over."""
        num, sum_s = self._by_tool.pop(tool, (0, 0.0))
        self._by_tool[tool] = (num + 1, sum_s + pause_s)
        if len(self._by_tool) > MAX_TOOLS:
            self._by_tool.popitem(last=False)
        self._num += 1
        self._sum_s += pause_s

    @property
    def mean_s(self) -> float | None:
        """The mean of all pauses; None before the first."""
        return self._sum_s / self._num if self._num else None

    def remaining_s(self, tool: str, elapsed_s: float) -> float:
        """The expected remainder of a pause that has lasted so long.

        What is left of the tool's mean; of one that outlasts it, as long again as it has lasted.
        """
        num, sum_s = self._by_tool.get(tool, (0, 0.0))
        if num:
            mean_s = sum_s / num
        elif tool == HUMAN:
            mean_s = FIRST_HUMAN_PAUSE_S
        else:
            mean_s = 1.0 if self.mean_s is None else self.mean_s
        return max(mean_s - elapsed_s, elapsed_s)
