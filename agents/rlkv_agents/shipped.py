"""The universal bundle that comes with the package: used wherever no other is named."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

#: What stands for it where a bundle's folder may be named.
UNIVERSAL = "universal"
#: What stands in its place where there is to be none.
NO_BUNDLE = "none"


def bundle_folder(said: Path | str) -> Path:
    """The folder of a bundle: ``universal`` is the shipped one, unless there is such a folder."""
    folder = Path(said)
    if str(said) == UNIVERSAL and not folder.exists():
        return Path(str(files("rlkv_agents"))) / "universal_bundle"
    return folder


def bundle_place(folder: Path, beside: Path) -> str:
    """How a record in the folder ``beside`` names a bundle, so that ``bundle_from`` finds it."""
    if bundle_folder(folder) != folder:
        return UNIVERSAL
    return os.path.relpath(folder, beside)


def bundle_from(place: str, beside: Path) -> Path:
    """The folder that ``bundle_place`` named."""
    return Path(UNIVERSAL) if place == UNIVERSAL else beside / place
