from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from tests.rlkv.command_line import assert_refused, run


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLKV_API_KEY", raising=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org"])
def test_an_address_that_others_reach_needs_a_key(
    capsys: pytest.CaptureFixture[str], host: str
) -> None:
    result = run(capsys, "engine", "serve", "--host", host)
    assert_refused(result, f"--host {host} can be reached by others: give --api-key-file")


def test_a_key_that_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    serve = ("engine", "serve", "--host", "0.0.0.0")
    empty = tmp_path / "key"
    empty.write_text("\n")
    assert_refused(run(capsys, *serve, "--api-key-file", empty), "its first line is empty")
    assert_refused(run(capsys, *serve, "--api-key-file", tmp_path / "no"), "cannot be read")
    both = run(capsys, *serve, "--api-key-file", empty, "--api-key", "x")
    assert_refused(both, "--api-key and --api-key-file exclude each other")
    assert_refused(run(capsys, *serve, "--api-key", ""), "the API key is empty")


def test_options_that_cannot_be(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def refused(said: str, *options: object) -> None:
        assert_refused(run(capsys, "engine", "serve", "--port", 0, *options), said)

    refused("needs a profile: run rlkv calibrate", tmp_path / "nothing")
    refused("no model", tmp_path / "nothing", "--profile", "gptj-6b-a100")
    refused("unknown workload 'work'", "--workload", "work")
    refused("dtype must be one of float32", "--dtype", "int4")
    refused("bundle.json", "--policy", tmp_path)
    refused("policy 'clairvoyant' sees the future", "--policy", "clairvoyant")
    refused("no profile 'none'", "--profile", "none")
    refused("num_device_blocks must be a finite number at least 1", "--device-blocks", 0)
    refused("--max-sessions must be at least 1", "--max-sessions", 0)
    refused("'abacus' is not one that torch knows", "--device", "abacus")
    refused("threads must be at least 1", "--threads", 0)


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run(capsys, "engine", "serve", "--port", port)
        assert_refused(result, f"cannot listen at 127.0.0.1 port {port}")


def test_the_tiny_model_is_served_until_it_is_stopped(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n")
    command = [sys.executable, "-m", "rlkv", "engine", "serve", "--port", "0"]
    command += ["--api-key-file", str(key), "--device-blocks", "100", "--host-blocks", "50"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said.startswith("tiny at http://127.0.0.1:"), said
            client = openai.OpenAI(base_url=said.split()[-1], api_key="secret", max_retries=0)
            with client:
                asked = {"model": "tiny", "prompt": "the and of", "max_tokens": 8, "temperature": 0}
                first = client.completions.create(**asked)  # type: ignore[call-overload]
                again = client.completions.create(**asked)  # type: ignore[call-overload]
            assert first.choices[0].text == again.choices[0].text != ""
            assert first.usage.completion_tokens == 8
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
