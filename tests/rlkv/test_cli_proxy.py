"""``rlkv proxy`` as people start it, in front of ``rlkv engine serve``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.rlkv.command_line import assert_refused, run

PATIENCE_S = 300.0
BACKEND = ("--backend-url", "http://127.0.0.1:1")
SIDECAR = ("--redis", "redis://127.0.0.1:1")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RLKV_REDIS", "RLKV_BACKEND_KEY", "RLKV_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((), "Missing option '--backend-url'"),
        (("--backend-url", "localhost:8000"), "'localhost:8000' is not http:// or https://"),
        ((*BACKEND, "--backend", "vlm"), "unknown backend 'vlm': one of anthropic, dynamo"),
        ((*BACKEND, "--listen", "8710"), "--listen must be HOST:PORT or :PORT, got '8710'"),
        (
            (*BACKEND, "--listen", "0.0.0.0:0"),
            "0.0.0.0 can be reached by others: give --token-file",
        ),
        ((*BACKEND, "--redis", "http://x"), "http:// is not redis://"),
        ((*BACKEND, "--block-size", 0), "block_size must be above 0, got 0"),
        ((*BACKEND, "--max-body-bytes", 0), "max_body_bytes must be 1 or more, got 0"),
        ((*BACKEND, "--session-idle-s", -1), "session_idle_s must be above 0, got -1"),
        ((*BACKEND, "--token-file", "/nowhere"), "/nowhere: cannot be read"),
        ((*BACKEND, "--backend-key-file", "/nowhere"), "/nowhere: cannot be read"),
        ((*BACKEND, *SIDECAR, "--namespace", ""), "namespace is empty"),
        ((*BACKEND, *SIDECAR, "--engine-id", ""), "engine_id is empty"),
    ],
)
def test_options_that_cannot_be(
    capsys: pytest.CaptureFixture[str], options: tuple[object, ...], named: str
) -> None:
    assert_refused(run(capsys, "proxy", *options), named)


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run(capsys, "proxy", *BACKEND, "--listen", f":{port}")
        assert_refused(result, f"cannot listen at 127.0.0.1 port {port}")


@contextmanager
def rlkv(*words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process and its first line."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-m", "rlkv", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.system
def test_before_an_engine_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve = ("engine", "serve", "--port", port, "--device-blocks", 100, "--host-blocks", 50)
    chat = {
        "model": "tiny", "messages": [{"role": "user", "content": "the and of"}],
        "max_tokens": 8, "temperature": 0,
    }  # fmt: skip

    def text_of(client: Any, stream: bool) -> str:
        if not stream:
            return str(client.chat.completions.create(**chat).choices[0].message.content)
        chunks = client.chat.completions.create(**chat, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    with rlkv("proxy", "--backend-url", f"http://127.0.0.1:{port}", "--listen", ":0") as (
        proxy,
        said,
    ):
        url = said.split()[0]
        assert said == f"{url} passes to http://127.0.0.1:{port}\n"
        with openai.OpenAI(
            base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=PATIENCE_S
        ) as client:
            texts = []
            for _ in range(2):
                with rlkv(*serve) as (engine, line):
                    assert line.startswith("tiny at"), line
                    with openai.OpenAI(
                        base_url=f"http://127.0.0.1:{port}/v1", api_key="x", timeout=PATIENCE_S
                    ) as direct:
                        texts.append(text_of(direct, False))
                    texts += [text_of(client, stream) for stream in (False, True)]
                    with pytest.raises(openai.NotFoundError):
                        client.models.retrieve("nope")
                    asking: Any = client
                    stream = asking.chat.completions.create(
                        **chat | {"max_tokens": 500}, stream=True
                    )
                    next(stream)
                    engine.kill()
                    # What has come already is read; the end does not look like one.
                    with pytest.raises(openai.APIConnectionError):
                        for _ in stream:
                            pass
                with pytest.raises(openai.InternalServerError, match="cannot be reached"):
                    text_of(client, False)
            assert len(set(texts)) == 1 and texts[0]
        proxy.send_signal(signal.SIGINT)
        _, err = proxy.communicate(timeout=60)
        assert proxy.returncode == 130, err
        assert "Traceback" not in err
