"""Turns equal-length draws per turn into a ``Trace``, and rescales contexts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace


def turn_index(num_turns: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``(first_turn [num_sessions + 1], position of each turn in its session [num_turns])``."""
    first_turn = np.concatenate([[0], np.cumsum(num_turns)]).astype(np.int64)
    position = np.arange(first_turn[-1]) - np.repeat(first_turn[:-1], num_turns)
    return first_turn, position


def growing_context(
    first_turn: NDArray[np.int64],
    first_prompt_tokens: NDArray[np.int64],
    output_tokens: NDArray[np.int64],
    return_tokens: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Prompts of sessions whose whole context stays valid and only grows.

    Args:
        first_turn: shape ``[num_sessions + 1]``.
        first_prompt_tokens: shape ``[num_sessions]``.
        output_tokens: shape ``[num_turns]``.
        return_tokens: what the pause after each turn adds to the context, ``[num_turns]``.

    Returns:
        ``(input_tokens, shared_prefix_tokens)``, each ``[num_turns]``: the shared prefix is all
        of the context so far.
    """
    lengths = np.diff(first_turn)
    added = output_tokens + return_tokens
    before = np.cumsum(added) - added
    grown = before - np.repeat(before[first_turn[:-1]], lengths)
    input_tokens = np.repeat(first_prompt_tokens, lengths) + grown
    shared = np.zeros_like(input_tokens)
    shared[1:] = input_tokens[:-1] + output_tokens[:-1]
    shared[first_turn[:-1]] = 0
    return input_tokens, shared


def make_bodies(
    name: str,
    tools: tuple[str, ...],
    root_prefix: str,
    first_turn: NDArray[np.int64],
    *,
    input_tokens: NDArray[np.int64],
    shared_prefix_tokens: NDArray[np.int64],
    output_tokens: NDArray[np.int64],
    tool: NDArray[np.int64],
    pause_s: NDArray[np.float64],
) -> Trace:
    """A trace without arrivals; the last turn of a session loses its tool and pause.

    Session ``i`` is called ``<root_prefix>-<i>`` and is its own root.
    """
    tool = tool.astype(np.int64)
    pause_s = pause_s.astype(np.float64)
    tool[first_turn[1:] - 1] = -1
    pause_s[first_turn[1:] - 1] = np.nan
    num_sessions = len(first_turn) - 1
    names = [f"{root_prefix}-{i}" for i in range(num_sessions)]
    return Trace(
        name=name,
        tools=tools,
        first_turn=first_turn,
        arrival_s=np.full(num_sessions, np.nan),
        input_tokens=input_tokens.astype(np.int64),
        shared_prefix_tokens=shared_prefix_tokens.astype(np.int64),
        output_tokens=output_tokens.astype(np.int64),
        tool=tool,
        pause_s=pause_s,
        session_ids=names,
        roots=names,
    )


def scale_contexts(trace: Trace, scale: float | NDArray[np.float64]) -> Trace:
    """Multiplies all token counts by ``scale`` (one number, or one a session), rounding down.

    At least one input and one output token stay, and a shared prefix stays inside the
    session's own context.
    """
    lengths = np.diff(trace.first_turn)
    factor = np.repeat(np.broadcast_to(scale, lengths.shape), lengths)
    input_tokens = np.maximum(1, np.floor(trace.input_tokens * factor)).astype(np.int64)
    output_tokens = np.maximum(1, np.floor(trace.output_tokens * factor)).astype(np.int64)
    shared = np.floor(trace.shared_prefix_tokens * factor).astype(np.int64)
    context = np.zeros_like(input_tokens)
    context[1:] = input_tokens[:-1] + output_tokens[:-1]
    context[trace.first_turn[:-1]] = 0
    return replace(
        trace,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        shared_prefix_tokens=np.minimum(np.minimum(shared, context), input_tokens),
    )


def fit_contexts(trace: Trace, max_context_tokens: int) -> Trace:
    """Scales each session whose prompt plus output ever exceeds the limit down to it.

    Raises:
        InputError: the limit is below 16 tokens.
    """
    if max_context_tokens < 16:
        raise InputError(f"max_context_tokens must be 16 or more, got {max_context_tokens}")
    if trace.num_sessions == 0:
        return trace
    longest = np.maximum.reduceat(trace.input_tokens + trace.output_tokens, trace.first_turn[:-1])
    if int(longest.max()) <= max_context_tokens:
        return trace
    scaled = scale_contexts(trace, np.minimum(1.0, max_context_tokens / longest))
    over = np.maximum(0, scaled.input_tokens + scaled.output_tokens - max_context_tokens)
    input_tokens = np.maximum(1, scaled.input_tokens - over)
    shared = np.minimum(scaled.shared_prefix_tokens, input_tokens)
    return replace(scaled, input_tokens=input_tokens, shared_prefix_tokens=shared)
