"""``rlkv serve`` as people start it: a process of its own, until a signal."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlkv_agents.bundle import save_bundle
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.redis_url import RedisURL
from rlkv_service.schema import Verdicts
from tests.agents.small_scenario import random_network
from tests.rlkv.command_line import assert_refused, run
from tests.service.sidecar.queue_client import QueueClient

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rlkv-") as path:
        save_bundle(Path(path) / "bundle", random_network(), {})
        yield Path(path)


def environment(**more: str) -> dict[str, str]:
    paths = [str(ROOT / part) for part in ("", "envs", "agents", "engine", "service")]
    kept = {name: value for name, value in os.environ.items() if name != "RLKV_REDIS"}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), **more}


@contextmanager
def serving(
    folder: Path, *options: object, **more: str
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    words = ["serve", "--bundle", folder / "bundle", *options]
    # What it has loaded is told at its end.
    program = (
        "import atexit, sys; from rlkv.cli import main;"
        "atexit.register(lambda: print('loaded', *sorted(sys.modules), file=sys.stderr));"
        "main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)],
        env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    told = []
    assert process.stdout is not None
    wanted = "others:" if "--http" in options else "engines:"
    while line := process.stdout.readline():
        told.append(line.rstrip())
        if line.startswith(wanted):
            break
    try:
        yield process, told
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    return process.returncode, err


def test_with_a_server_of_its_own(folder: Path) -> None:
    with serving(folder, "--data-dir", folder / "data") as (process, told):
        url = RedisURL(path=str(folder / "data" / "valkey.sock"))
        assert told[0].startswith("learned@") and told[0].endswith(f"at {url}")
        assert f"Client('{url}'" in told[1]
        client = QueueClient(url)
        answer = client.ask(3)
        assert isinstance(answer, Verdicts) and answer.id == 3
        assert answer.policy_version == told[0].split(",")[0]
        (said,) = client.connection.execute("HVALS", client.keys.sidecars) or [None]
        client.connection.close()
        code, err = ended(process, signal.SIGTERM)
    assert code == 0
    assert said is None or json.loads(said)["pid"] == process.pid
    assert not (folder / "data" / "valkey.sock").exists()
    assert "Traceback" not in err
    loaded = set(err.split("loaded", 1)[1].split())
    assert "numba" in loaded and "rlkv_service.deciding.decider" in loaded
    assert not loaded & {"torch", "stable_baselines3", "sb3_contrib", "matplotlib", "fastapi"}


def test_beside_a_server_and_over_http(folder: Path) -> None:
    server = EmbeddedValkey(folder / "valkey", {"requirepass": "pw"})
    url = RedisURL(path=server.url.path, password="pw")
    said = f"unix://:pw@{server.url.path}"
    options = ("--http", "127.0.0.1:0", "--shadow", "--max-body-bytes", 100)
    with serving(folder, *options, RLKV_REDIS=said) as (process, told):
        assert "which only watches" in told[0] and "pw@" not in " ".join(told)
        place = told[2].removeprefix("others: ")
        with urllib.request.urlopen(f"{place}/v1/policy", timeout=20) as response:
            assert json.load(response)["shadow"] is True
        long = urllib.request.Request(f"{place}/v1/decisions", b" " * 101)
        with pytest.raises(urllib.error.HTTPError, match="413") as refused:
            urllib.request.urlopen(long, timeout=20)
        refused.value.close()
        client = QueueClient(url)
        assert client.ask(1).id == 1
        client.connection.close()
        code, err = ended(process, signal.SIGINT)
    assert code == 0 and "Traceback" not in err
    loaded = set(err.split("loaded", 1)[1].split())
    assert "fastapi" in loaded and not loaded & {"torch", "stable_baselines3", "sb3_contrib"}
    assert server.is_running
    server.stop()


def test_after_a_crash_another_goes_on(folder: Path) -> None:
    data = folder / "data"
    with serving(folder, "--data-dir", data) as (process, _):
        client = QueueClient(RedisURL(path=str(data / "valkey.sock")))
        client.ask(1)
        process.kill()
        process.wait()
        client.push(client.frame(2))  # the server goes on without it
    save_bundle(folder / "bundle", random_network(1), {})
    with serving(folder, "--data-dir", data) as (process, told):
        answer = client.next()
        assert isinstance(answer, Verdicts) and answer.id == 2
        assert told[0].startswith(answer.policy_version)
        client.connection.close()
        code, _ = ended(process, signal.SIGTERM)
    assert code == 0
    assert not (data / "valkey.sock").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--redis", "http://host"), "http:// is not redis://"),
        (("--min-confidence", 1.5), "--min-confidence must be from 0 to 1, got 1.5"),
        (("--log-bytes", -1), "--log-bytes must be 0 or more, got -1"),
        (("--namespace", "a:b"), "--namespace must be a word"),
        (("--http", "8700"), "--http must be HOST:PORT or :PORT, got '8700'"),
        (("--http", ":99999"), "--http must be HOST:PORT or :PORT, got ':99999'"),
        (("--http", "0.0.0.0:0"), "0.0.0.0 can be reached by others"),
        (("--token-file", "tokens"), "--token-file is of the decision API: give --http too"),
        (("--max-listeners", 3), "--max-listeners is of the decision API: give --http too"),
        (("--http", ":0", "--requests-per-s", 0), "requests_per_s must be above 0, got 0"),
        (("--http", ":0", "--max-body-bytes", 0), "max_body_bytes must be at least 1, got 0"),
        (("--redis", "unix:///x", "--data-dir", "d"), "both say where the server is"),
        (("--bundle", "/nowhere"), "/nowhere/bundle.json: cannot read it"),
        (("--nonsense", 1), "No such option"),
    ],
)
def test_options_that_cannot_be(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[object, ...],
    named: str,
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("RLKV_REDIS", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    assert_refused(run(capsys, "serve", *options), named)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"127.0.0.1:{other.getsockname()[1]}"
        assert_refused(run(capsys, "serve", "--http", place), "Address already in use")


def test_servers_that_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = ("--bundle", folder / "bundle")
    for place, said in (
        (f"unix://{folder}/none.sock", "cannot be reached"),
        ("redis://127.0.0.1:1", "cannot be reached"),
    ):
        code, out, err = run(capsys, "serve", *bundle, "--redis", place)
        assert (code, out) == (1, "") and said in err and err.count("\n") == 1


def test_one_line_says_how_it_is_doing() -> None:
    from rlkv.cli.serve_status import status_text
    from rlkv_service.sidecar.counters import Counters

    counters = Counters()
    before = counters.counts()
    assert status_text("b@1", before, counters.counts(), 1.0) == "b@1 · 0 decisions/s"
    counters.answered(2e-4, 3)
    counters.dropped("late", 2)
    counters.queue(5)
    text = status_text("b@1", before, counters.counts(), 1.0)
    assert "within 250 µs" in text and "2 late" in text and "5 waiting" in text
