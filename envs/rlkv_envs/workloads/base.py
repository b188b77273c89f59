"""What a workload is: a source of session bodies, without arrivals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, Literal, get_args

import numpy as np

from rlkv_engine.trace import Trace
from rlkv_envs.workloads.arrivals import ArrivalProcess, Poisson

Split = Literal["train", "validation", "test"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)


class Workload(ABC):
    """Draws sessions: turns, token counts, tools and pauses; arrivals are composed later.

    Implementations are immutable: ``bodies`` depends on its arguments alone.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name, also the name of the traces."""

    @property
    @abstractmethod
    def description(self) -> str:
        """One line: what the sessions are and where their numbers come from."""

    @property
    @abstractmethod
    def tools(self) -> tuple[str, ...]:
        """Tool names that calls may carry; ``Trace.tool`` indexes them."""

    def default_arrivals(self, rate_per_s: float) -> ArrivalProcess:
        """How such sessions arrive when nothing else is asked for: Poisson."""
        return Poisson(rate_per_s)

    @abstractmethod
    def bodies(self, rng: np.random.Generator, split: Split, num_sessions: int) -> Trace:
        """Draws ``num_sessions`` sessions with ``arrival_s`` NaN.

        Args:
            rng: source of all randomness; the same state gives the same sessions.
            split: sessions of two splits never share a conversation root.
            num_sessions: 1 or more.

        Raises:
            InputError: the split holds no sessions to draw from.
        """
