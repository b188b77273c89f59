"""A real frontend of Dynamo before its mock engine; skipped where Dynamo is not installed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlkv_service.adapters.hints import BACKENDS, Hints, Pause, Served, with_fields
from rlkv_service.schema import Verb
from tests.service.adapters.hints.made_pauses import pause_of

pytest.importorskip("dynamo.frontend", reason="Dynamo is not installed", exc_type=ImportError)
httpx = pytest.importorskip("httpx")
tokenizers = pytest.importorskip("tokenizers")

PATIENCE_S = 120.0
BODY: dict[str, Any] = {
    "model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2,
}  # fmt: skip
SERVED = Served(model="tiny")


def write_model(folder: Path) -> None:
    """A model that has a tokenizer of single bytes and no weights: the mock engine needs none."""
    folder.mkdir()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    for name, content in {
        "config": {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": 257, "max_position_embeddings": 2048, "eos_token_id": 256,
            "bos_token_id": 256, "torch_dtype": "bfloat16",
        },
        "tokenizer_config": {"eos_token": "<|end|>", "chat_template": template},
        "generation_config": {"eos_token_id": 256},
    }.items():  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def dynamo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A client, and the file in which the frontend writes down each request."""
    folder = tmp_path_factory.mktemp("dynamo")
    write_model(folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "DYN_FILE_KV": str(folder / "store"),
        "DYN_REQUEST_TRACE": "1",
        "DYN_REQUEST_TRACE_SINKS": "file",
        "DYN_REQUEST_TRACE_FILE_FORMAT": "jsonl",
        "DYN_REQUEST_TRACE_FILE_PATH": str(folder / "trace"),
        "DYN_REQUEST_TRACE_FILE_FLUSH_INTERVAL_MS": "50",
    }
    commands = (
        ["dynamo.mocker", "--model-path", str(folder / "model"), "--model-name", "tiny"],
        ["dynamo.frontend", "--http-port", str(port), "--router-mode", "kv"],
    )
    processes = [
        subprocess.Popen([sys.executable, "-m", *command, "--discovery-backend", "file"], env=env)
        for command in commands
    ]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
            wait_for(lambda: model_is_there(client, processes))
            yield client, folder / "trace"
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(PATIENCE_S)


def model_is_there(client: Any, processes: list[subprocess.Popen[bytes]]) -> bool:
    assert all(process.poll() is None for process in processes), "Dynamo does not start"
    try:
        return bool(client.get("/v1/models").json()["data"])
    except (httpx.HTTPError, ValueError):
        return False


def wait_for(condition: Any) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def traced(path: Path, num: int) -> list[Any]:
    """What the frontend understood of the first requests."""
    files: list[Path] = []

    def lines() -> list[str]:
        files[:] = [each for each in (path, path.with_suffix(".jsonl")) if each.exists()]
        return files[0].read_text().splitlines() if files else []

    wait_for(lambda: len(lines()) >= num)
    return [json.loads(line)["event"].get("agent_context") for line in lines()]


def test_headers_and_hints_are_understood(dynamo: tuple[Any, Path]) -> None:
    client, trace = dynamo

    def ask(hints: Hints, **changed: Any) -> Any:
        body = with_fields(BODY, hints) | changed
        return client.post("/v1/chat/completions", json=body, headers=dict(hints.headers))

    for verb in Verb:
        hints = BACKENDS["dynamo"](pause_of(verb, parent_session="chat-1"), SERVED)
        assert ask(hints).status_code == 200
    # Fields of hints are checked: what is not known, or of another type, is an error.
    refused = ask(hints, nvext={"agent_hints": {"priority": "high"}})
    assert refused.status_code == 400 and "expected i32" in refused.text
    refused = ask(hints, nvext={"agent_hints": {"lease_s": 1}})
    assert refused.status_code == 400 and "strict_priority" in refused.text

    (final,) = BACKENDS["dynamo"](Pause(session="chat-17", ends=True), SERVED).calls
    told = client.request(final.method, final.path, json=final.body, headers=dict(final.headers))
    assert told.status_code == 200, told.text

    *paused, ended = traced(trace, 4)
    for context in paused:
        assert (context["session_id"], context["parent_session_id"]) == ("chat-17", "chat-1")
        assert not context.get("session_final")
    assert (ended["session_id"], ended["session_final"]) == ("chat-17", True)
