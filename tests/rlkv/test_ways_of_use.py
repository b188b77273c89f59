"""The pages that show how rlkv is used, tried out on a real ``rlkv serve``."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlkv.sidecar_process import SidecarProcess

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
#: Longer than any pause of the machine: what is shown here must be answered.
PATIENT_MS = 20_000.0


@pytest.fixture(scope="module")
def serve() -> Iterator[SidecarProcess]:
    with SidecarProcess("--http", "127.0.0.1:0") as process:
        yield process


def snippets(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_example_of_an_engine_is_answered(
    serve: SidecarProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(ROOT / "examples" / "engine_integration.py"))["main"]
    engine = main(serve.url, step_s=0.01, deadline_ms=PATIENT_MS)
    told = capsys.readouterr().out
    found = re.match(r"(\d+) answers of the sidecar, (\d+) times our own rule\n", told)
    assert found is not None and int(found[1]) > 0 and int(found[2]) == 0, told
    # Twelve sessions had four turns, and each pause ended once.
    assert sum(engine.tokens.values()) == sum(
        900 + 100 * i + 200 * turn for i in range(12) for turn in range(4)
    )


def test_the_example_of_an_engine_serves_on_without_a_sidecar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(ROOT / "examples" / "engine_integration.py"))["main"]
    main(f"unix://{tmp_path}/none.sock", step_s=0.0)
    assert capsys.readouterr().out.startswith("0 answers of the sidecar, ")


def test_the_page_about_engines_shows_the_example() -> None:
    program = (ROOT / "examples" / "engine_integration.py").read_text()
    shown = snippets("use-in-your-engine.md", "python")
    assert shown
    for snippet in shown:
        assert snippet in program, snippet


def run(command: list[str], serve: SidecarProcess, text: str, cwd: Path) -> str:
    """A snippet, with the address of this server in the place of the page's."""
    text = text.replace("http://127.0.0.1:8700", serve.http_url)
    ran = subprocess.run(
        command, input=text, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_lines_with_curl_run(serve: SidecarProcess, tmp_path: Path) -> None:
    asks, hints, *reports = (
        run(["sh", "-e"], serve, lines, tmp_path)
        for lines in snippets("use-over-http.md", "sh")[1:]
    )
    (verdict,) = json.loads(asks)["verdicts"]
    assert verdict["session"] == "chat-17" and verdict["verb"] in ("PRESERVE", "SWAP", "DISCARD")
    (verdict,) = json.loads(hints)["verdicts"]
    assert verdict["hints"]["fields"]["session_id"] == "chat-17"
    assert [json.loads(line) for line in reports[0].splitlines()] == [
        {"accepted": 1, "new": 1}, {"session": "chat-17", "engine_id": "engine-0", "new": True},
    ]  # fmt: skip


def test_the_lines_of_python_run(serve: SidecarProcess, tmp_path: Path) -> None:
    (program,) = snippets("use-over-http.md", "python")
    told = run([sys.executable, "-W", "error", "-"], serve, program, tmp_path)
    assert re.fullmatch(r"(PRESERVE|SWAP|DISCARD) [\d.]+\nTrue\n", told), told


def test_the_lines_of_typescript_run(serve: SidecarProcess, tmp_path: Path) -> None:
    # Playwright brings a Node that takes types out by itself; it does not check them.
    driver = pytest.importorskip("playwright._impl._driver")
    node = Path(driver.compute_driver_executable()[0])
    (program,) = snippets("use-over-http.md", "ts")
    (tmp_path / "ask.ts").write_text(program.replace("http://127.0.0.1:8700", serve.http_url))
    told = run([str(node), "ask.ts"], serve, "", tmp_path)
    assert re.fullmatch(r"(PRESERVE|SWAP|DISCARD) [\d.]+\ntrue\n", told), told
