from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_researcher_trains_with_sb3() -> None:
    example = runpy.run_path(str(EXAMPLES / "train_with_sb3.py"))
    assert np.isfinite(example["main"](1024))
