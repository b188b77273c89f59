"""Where a result comes from: commit, command, machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def commit() -> str:
    """The commit of the source this runs from, ``+`` if it was edited; its version elsewhere."""
    from rlkv import __version__

    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return f"v{__version__}"

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        edited = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if edited else "")
    except (OSError, subprocess.CalledProcessError):
        return f"v{__version__}"


def command() -> str:
    """The command line, as it can be typed again."""
    return shlex.join(["rlkv", *sys.argv[1:]])


def machine() -> str:
    """What this ran on, in words."""
    return (
        f"{os.cpu_count()} cores, {_cpu_model()}, {platform.system()},"
        f" Python {platform.python_version()}"
    )


def device_name(device: torch.device) -> str:
    """Where a model runs: the name of the GPU, or ``cpu``."""
    if device.type != "cuda":
        return device.type
    import torch

    return torch.cuda.get_device_name(device)


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
