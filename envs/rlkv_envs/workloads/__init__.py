"""Workloads: where sessions come from, and when they arrive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlkv_engine.errors import InputError
from rlkv_envs.workloads.arrivals import ArrivalProcess as ArrivalProcess
from rlkv_envs.workloads.base import SPLITS as SPLITS
from rlkv_envs.workloads.base import Split as Split
from rlkv_envs.workloads.base import Workload as Workload
from rlkv_envs.workloads.chat_bursts import ChatBursts
from rlkv_envs.workloads.coding_agent import CodingAgent
from rlkv_envs.workloads.compose import make_trace as make_trace
from rlkv_envs.workloads.crossover import Crossover
from rlkv_envs.workloads.infercept import InferCept
from rlkv_envs.workloads.replay import TraceWorkload as TraceWorkload

#: Every workload by name; the values take the options of ``make_workload`` as keywords.
WORKLOADS: dict[str, Callable[..., Workload]] = {
    "chat-bursts": ChatBursts,
    "coding-agent": CodingAgent,
    "crossover": Crossover,
    "infercept": InferCept,
}


def make_workload(name: str, **overrides: Any) -> Workload:
    """Builds a workload by name.

    Raises:
        InputError: unknown name or option, or a value the workload refuses.
    """
    if name not in WORKLOADS:
        raise InputError(f"unknown workload {name!r}: one of {', '.join(sorted(WORKLOADS))}")
    try:
        return WORKLOADS[name](**overrides)
    except TypeError as error:
        raise InputError(f"workload {name!r}: {error}") from error
