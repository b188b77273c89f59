"""What a header can carry."""

from __future__ import annotations


def header(name: str, value: str) -> dict[str, str]:
    """A header, or none where the value is empty, no visible ASCII, or would come back trimmed."""
    carried = value.isascii() and value.isprintable() and value.strip() == value != ""
    return {name: value} if carried else {}
