from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from rlkv_service.client import Reason
from rlkv_service.embedded_valkey import EmbeddedValkey
from tests.service.client.answering import Responder

ROOT = Path(__file__).parents[3]


def test_the_example_runs_with_and_without_a_sidecar(
    valkey: EmbeddedValkey, responder: Responder, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(ROOT / "examples" / "decision_client.py"))["main"]
    assert main(str(valkey.url), 20_000.0) is Reason.POLICY
    told = capsys.readouterr().out.split("\n")
    assert re.fullmatch(r"alice: \w+, back in about 1\.0 s, because of POLICY", told[0])
    assert told[3] == "the server has what came of it"
    assert main(f"{valkey.url.path}".join(("unix://", "-not")), 50.0) in (
        Reason.DISCONNECTED, Reason.BREAKER_OPEN,
    )  # fmt: skip
    assert "nobody to report to" in capsys.readouterr().out


def test_the_lines_of_the_docs_run(
    valkey: EmbeddedValkey, responder: Responder, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "client.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    program = program.replace(
        'unix:///run/rlkv/valkey.sock"', f'{valkey.url}", deadline_ms=20_000.0'
    )
    exec(compile(program, "docs/client.md", "exec"), {})
    assert re.fullmatch(r"\d [\d.]+ 0\n", capsys.readouterr().out)
