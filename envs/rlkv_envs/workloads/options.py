"""Checks of options that several workloads share."""

from __future__ import annotations

from rlkv_engine.errors import InputError


def check_turn_limits(min_turns: int, max_turns: int | None) -> None:
    """Raises ``InputError`` unless ``1 <= min_turns <= max_turns``."""
    if min_turns < 1:
        raise InputError(f"min_turns must be 1 or more, got {min_turns}")
    if max_turns is not None and max_turns < min_turns:
        raise InputError(f"max_turns {max_turns} is below min_turns {min_turns}")
