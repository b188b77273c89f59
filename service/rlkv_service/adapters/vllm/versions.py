"""Versions of vLLM on which the plug-in was tested; its interfaces move with every release."""

from __future__ import annotations

TESTED_VERSIONS = ("0.32.0",)


def is_tested(version: str) -> bool:
    """Whether a version, without what its builder has appended (``+cpu``), is among them."""
    return version.partition("+")[0] in TESTED_VERSIONS
