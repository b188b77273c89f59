from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rlkv.real_vllm.server import VllmServer
from rlkv_engine.errors import RlkvError


def test_a_python_without_vllm_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "no-vllm"
    (folder / "vllm").mkdir(parents=True)
    (folder / "vllm" / "__init__.py").write_text("raise ImportError('no vLLM here')")
    server = VllmServer(sys.executable, tmp_path, tmp_path / "log", env={"PYTHONPATH": str(folder)})
    with pytest.raises(RlkvError, match=r"vLLM does not start: .*(?s:.*)no vLLM here"):
        server.wait()
    assert not server.is_running
