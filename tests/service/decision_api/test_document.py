"""Whatever is asked, the answer is one that the document knows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.service.decision_api.running_api import PATIENCE_S, Api

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


def test_no_server_error_and_no_undocumented_answer(api: Api, tmp_path: Path) -> None:
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")), "run", f"{api.url}/openapi.json",
            "--checks", ",".join(CHECKS), "--continue-on-failure", "--no-color",
            # Never ends; test_live_feed.py listens.
            "--exclude-path", "/v1/events",
            "--max-examples", "15", "--seed", "1", "--generation-deterministic",
            "--no-shrink", "--warnings", "off",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
