from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]


def run_module(module: str, *arguments: str, **environment: str) -> str:
    """What ``python -m module arguments`` prints, with the repository's packages and one thread."""
    rooms = [ROOT, *(ROOT / room for room in ("service", "agents", "envs", "engine"))]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TRITON_")}
    child = subprocess.run(
        [sys.executable, "-W", "error", "-m", module, *arguments],
        env=inherited
        | {"PYTHONPATH": os.pathsep.join(map(str, rooms)), "OMP_NUM_THREADS": "1"}
        | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout
