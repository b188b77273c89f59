from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_a_researcher_trains_with_sb3() -> None:
    example = runpy.run_path(str(EXAMPLES / "train_with_sb3.py"))
    assert np.isfinite(example["main"](1024))


def test_a_researcher_learns_from_forks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXAMPLES / "forked_ppo.py"))
    assert np.isfinite(example["main"](1, str(tmp_path / "model")))
    assert (tmp_path / "model" / "bundle.json").exists()
    assert "of the rule's latency" in capsys.readouterr().out
