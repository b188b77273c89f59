from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlkv_service.adapters.hints import BACKENDS

PAGE = (Path(__file__).parents[4] / "docs" / "hints.md").read_text()


def test_every_backend_has_a_line_in_the_table() -> None:
    assert set(re.findall(r"^\| `([\w-]+)`[^|]*\| ", PAGE, re.MULTILINE)) >= set(BACKENDS)


def test_the_lines_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(program, "docs/hints.md", "exec"), {})
    told = capsys.readouterr().out
    assert "'session_id': 'chat-17', 'priority': -5" in told and "/close_session" in told


def test_the_tests_that_the_page_names_are_there() -> None:
    folder, root = Path(__file__).parent, Path(__file__).parents[4]
    for name in re.findall(r"`(?:tests/[\w/]+/)?(test_\w+\.py)`", PAGE):
        assert (folder / name).exists() or (root / "tests" / "vllm" / name).exists(), name
