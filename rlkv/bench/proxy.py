"""What ``rlkv proxy`` adds to a stream: the same streams with it and without, in turns."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from rlkv.bench.measure import Size
from rlkv.bench.stream_load import StreamTimes, read_streams, whole_answers_per_s
from rlkv.bench.stream_stub import stream_stub
from rlkv_engine.errors import RlkvError

#: Between two chunks of a stream: 50 tokens a second, as people read them from large models.
INTERVAL_S = 0.02
#: Streams one after the other on a connection, in one repetition.
_ROUNDS = 2
_CLIENTS = 16  #: for requests per second
#: What a request carries: agents send all that was said each time.
_MESSAGE_BYTES, _NUM_MESSAGES = 800, 20


def proxy(size: Size) -> dict[str, Any]:
    """Latency per chunk and to the first one, at 1, 64 and 256 streams, and requests per second.

    The proxy is a process of its own, names sessions, reads answers, adds hints for vLLM and
    reports to a Valkey. Direct and through it take turns; what is added is the median over the
    repetitions of the difference of percentiles.
    """
    from rlkv_service.embedded_valkey import EmbeddedValkey

    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="rlkv-") as folder:
        valkey = EmbeddedValkey(Path(folder))
        try:
            with (
                stream_stub(size.proxy_chunks, INTERVAL_S) as direct,
                _proxy_process(direct, str(valkey.url)) as (process, proxied),
            ):
                for num_streams in size.proxy_streams:
                    figures |= _streams(num_streams, direct, proxied, process, size)
                figures |= _whole(direct, proxied, size)
        finally:
            valkey.stop()
    return {
        "figures": figures,
        "measured_on": {
            "stub": "asyncio and httptools on uvloop in a process of its own, no model:"
            " a chunk of OpenAI's on each tick of a stream's clock",
            "interval_s": INTERVAL_S,
            "chunks": size.proxy_chunks,
            "rounds": _ROUNDS,
            "repetitions": size.repetitions,
            "request_bytes": len(_body(0)),
            "clients": _CLIENTS,
        },
    }


def _streams(
    num_streams: int, direct: int, proxied: int, process: subprocess.Popen[str], size: Size
) -> dict[str, float]:
    added: dict[str, list[float]] = {}
    own: dict[str, list[float]] = {"direct": [], "proxied": []}
    cpu_s, num_chunks = 0.0, 0

    def read(port: int) -> StreamTimes:
        # Begun evenly: requests come while other streams are in their middle.
        spread_s = size.proxy_chunks * INTERVAL_S
        return read_streams(port, _stream_request, num_streams, _ROUNDS, spread_s)

    for repetition in range(size.repetitions + 1):
        before_s = _cpu_s(process)
        through, straight = read(proxied), read(direct)
        if not repetition:
            continue  # connections are opened, and code is loaded
        cpu_s += _cpu_s(process) - before_s
        num_chunks += len(through.chunk_s) + len(through.first_s)
        for name, proxied_s, direct_s in (
            ("", through.chunk_s, straight.chunk_s),
            ("first_", through.first_s, straight.first_s),
        ):
            for percent in (50, 99):
                difference = _percentile(proxied_s, percent) - _percentile(direct_s, percent)
                added.setdefault(f"added_{name}p{percent}", []).append(1e3 * difference)
        own["direct"].append(1e3 * _percentile(straight.chunk_s, 50))
        own["proxied"].append(1e3 * _percentile(through.chunk_s, 50))
    return {
        **{f"{name}_ms_{num_streams}": statistics.median(values) for name, values in added.items()},
        **{f"{name}_p50_ms_{num_streams}": statistics.median(own[name]) for name in own},
        f"cpu_us_per_chunk_{num_streams}": 1e6 * cpu_s / num_chunks,
    }


def _whole(direct: int, proxied: int, size: Size) -> dict[str, float]:
    body = _body(0)
    request = _post("/v1/completions", body)
    straight, through = [], []
    for _ in range(size.repetitions):
        through.append(whole_answers_per_s(proxied, request, _CLIENTS, size.http_requests))
        straight.append(whole_answers_per_s(direct, request, _CLIENTS, size.http_requests))
    return {
        "requests_per_s": statistics.median(through),
        "direct_requests_per_s": statistics.median(straight),
    }


def _percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, percent * len(ordered) // 100)]


def _body(index: int) -> bytes:
    messages = [
        {
            "role": ("user", "assistant")[number % 2],
            "content": f"{index} {number} ".ljust(_MESSAGE_BYTES, "x"),
        }
        for number in range(_NUM_MESSAGES - 1)
    ]
    return msgspec.json.encode(
        {"model": "stub", "stream": True, "messages": messages, "prompt": "hi"}
    )


def _stream_request(index: int) -> bytes:
    return _post("/v1/chat/completions", _body(index))


def _post(path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _cpu_s(process: subprocess.Popen[str]) -> float:
    # The clock that clock_getcpuclockid names.
    return time.clock_gettime(~process.pid << 3 | 2)


@contextmanager
def _proxy_process(port: int, redis: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    words = [
        "proxy", "--backend-url", f"http://127.0.0.1:{port}", "--backend", "vllm",
        "--redis", redis, "--listen", "127.0.0.1:0",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "rlkv", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        if not said.startswith("http://"):
            raise RlkvError("rlkv proxy does not start")
        yield process, int(said.split()[0].rpartition(":")[2])
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
