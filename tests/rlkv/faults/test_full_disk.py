"""The disk under Valkey's append-only file is full, and has room again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rlkv_service.decision_api.examples import CALL, OUTCOME
from tests.rlkv.faults.engine_loop import EngineLoop, until, until_answered, until_local
from tests.rlkv.faults.system import System


@pytest.fixture
def small_disk(short_folder: Path) -> Iterator[Path]:
    folder = short_folder / "valkey"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "rlkv-test", str(folder)]
    if (done := subprocess.run(mount, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def give_room(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=256m", str(folder)], check=True)


def log_failures(http: httpx.Client) -> float:
    (line,) = (
        each for each in http.get("/metrics").text.splitlines()
        if each.startswith("rlkv_log_failures_total ")
    )  # fmt: skip
    return float(line.split()[1])


def test_decisions_go_on_and_outcomes_wait(small_disk: Path, short_folder: Path) -> None:
    system = System(short_folder, "--http", "127.0.0.1:0")
    try:
        with (
            EngineLoop(system.engine_wire.url, "disk", system.bundles) as engine,
            httpx.Client(base_url=system.sidecar.http_url, trust_env=False, timeout=20.0) as http,
        ):
            until_answered([engine], 100)
            assert http.post("/v1/outcomes", json=OUTCOME).json() == {"accepted": 1, "new": 1}
            # What the engine asks goes into the file, too, until that is full.
            until_local([engine], 100)
            assert "MISCONF" in engine.counts.last_error
            before = log_failures(http)
            until(
                [engine],
                lambda: http.post("/v1/outcomes", json=later(1)).status_code == 503,
                "outcomes are refused",
            )
            told = http.post("/v1/outcomes", json=later(1))
            assert told.status_code == 503 and "MISCONF" in told.json()["detail"]
            assert http.get("/readyz").status_code == 503
            assert http.post("/v1/decisions", json=CALL).status_code == 200
            until([engine], lambda: log_failures(http) > before, "it is counted")
            until([engine], lambda: engine.counts.outcomes_waiting > 5, "outcomes wait")
            give_room(small_disk)
            until_answered([engine], 200, "recovery")
            assert http.get("/readyz").status_code == 200
            assert http.post("/v1/outcomes", json=later(1)).json()["accepted"] == 1
            engine.finish()
        # And what was acknowledged is on the disk, once.
        system.valkey.kill()
        system.restart_valkey()
        reported = system.reported_by("disk")
        assert len(reported) == len(set(reported)) == engine.num_reported
        posted = [turn for engine, _, turn in system.reported_by("engine") if engine == "engine-0"]
        assert posted == [3, 4]
    finally:
        system.sidecar.kill()
        system.stop()


def later(turn: int) -> dict[str, object]:
    body = OUTCOME["outcomes"][0]
    return OUTCOME | {"outcomes": [body | {"turn": body["turn"] + turn}]}
