"""What is known of a backend's memory: read from its metrics, told by options, or measured."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

#: Of a series the first sample counts: ranks of one engine say the same.
_SAMPLE = r"^{name}(?:\{{([^}}]*)\}})?[ \t]+([0-9.eE+-]+)"
_LABEL = re.compile(r'(\w+)="([^"]*)"')
#: Requests on whose first token the costs of a prompt are measured, and the shortest of them.
_NUM_PREFILLS = 64
_MIN_PREFILL_TOKENS = 256
#: A quarter of requests waits for nobody else: their time is that of the prompt.
_UNDISTURBED = 0.25


@dataclass(frozen=True, slots=True)
class Names:
    """Where a backend's metrics say it; an empty name: nowhere."""

    path: str = "/metrics"
    used_ratio: str = ""
    running: str = ""
    queued: str = ""
    pool_tokens: str = ""
    block_size: str = ""
    pool_blocks: str = ""
    labels: str = ""  #: a series whose labels have block_size and num_gpu_blocks


#: Hints for these go to a vLLM.
VLLM_BACKENDS = ("vllm", "vllm-offloading", "kv-hints", "lmcache")
#: Read in vLLM 0.32.0 (``v1/metrics/loggers.py``), SGLang (``srt/metrics/collector.py``),
#: TensorRT-LLM (``tensorrt_llm/metrics/``, ``serve/openai_server.py``), and our own server.
METRICS: Mapping[str, Names] = {
    "vllm": Names(
        used_ratio="vllm:kv_cache_usage_perc",
        running="vllm:num_requests_running",
        queued="vllm:num_requests_waiting",
        labels="vllm:cache_config_info",
    ),
    "sglang": Names(
        used_ratio="sglang:token_usage",
        running="sglang:num_running_reqs",
        queued="sglang:num_queue_reqs",
        pool_tokens="sglang:max_total_num_tokens",
        block_size="sglang:page_size",
    ),
    "trtllm": Names(
        path="/prometheus/metrics",
        used_ratio="trtllm_kv_cache_utilization",
        running="trtllm_num_requests_running",
        queued="trtllm_num_requests_waiting",
    ),
    "rlkv": Names(
        used_ratio="rlkv_engine_used_blocks_ratio",
        running="rlkv_engine_sessions",
        pool_blocks="rlkv_engine_blocks",
    ),
}


def names_of(backend: str) -> Names | None:
    """Of the backend that hints are for; what stands on vLLM has its metrics."""
    return METRICS.get("vllm" if backend in VLLM_BACKENDS else backend)


@dataclass(slots=True)
class BackendFacts:
    """The machine and its moment, by the names of ``rlkv_engine.facts``.

    Args:
        told: facts of the machine that somebody has given; they count.
    """

    told: Mapping[str, float]
    read: dict[str, float] = field(default_factory=dict)
    _prefill_token_s: deque[float] = field(default_factory=lambda: deque(maxlen=_NUM_PREFILLS))

    def learn(self, names: Names, text: str) -> None:
        """Reads metrics in Prometheus' text format."""
        read: dict[str, float] = {}
        for fact, name in (
            ("used_ratio", names.used_ratio),
            ("num_running", names.running),
            ("num_queued", names.queued),
            ("pool_tokens", names.pool_tokens),
            ("block_size", names.block_size),
            ("num_device_blocks", names.pool_blocks),
        ):
            if name and (found := _sample(text, name)) is not None:
                read[fact] = found[1]
        if names.labels and (found := _sample(text, names.labels)) is not None:
            labels = dict(_LABEL.findall(found[0]))
            for fact, label in (
                ("block_size", "block_size"),
                ("num_device_blocks", "num_gpu_blocks"),
            ):
                if labels.get(label, "").isdecimal():
                    read[fact] = float(labels[label])
        tokens, block_size = read.pop("pool_tokens", 0.0), read.get("block_size", 1.0)
        if tokens and block_size:
            read["block_size"], read["num_device_blocks"] = block_size, tokens // block_size
        self.read = read

    def forget(self) -> None:
        """The backend's metrics cannot be read any more."""
        self.read = {}

    def saw_prefill(self, num_tokens: int, took_s: float) -> None:
        """So long the first token of a request took, so many of its prompt had to be computed."""
        if num_tokens >= _MIN_PREFILL_TOKENS:
            self._prefill_token_s.append(took_s / num_tokens)

    def row(self, running_tokens: int, num_running: int) -> dict[str, float] | None:
        """Facts of the machine and the moment; None: one without a default is not known.

        Args:
            running_tokens: KV of requests that pass through the proxy.
            num_running: how many they are; what the backend says of itself goes before both.
        """
        facts = {"num_host_blocks": 0.0, "max_num_seqs": 256.0, **self.read, **self.told}
        if "prefill_token_s" not in facts and self._prefill_token_s:
            measured = sorted(self._prefill_token_s)
            facts["prefill_token_s"] = measured[int(_UNDISTURBED * len(measured))]
        if not {"block_size", "num_device_blocks", "prefill_token_s"} <= facts.keys():
            return None
        blocks = facts["num_device_blocks"]
        used = facts.pop("used_ratio", None)
        if used is None:
            used = running_tokens / facts["block_size"] / blocks
        facts["free_blocks"] = max(0.0, round(blocks * (1.0 - used)))
        facts["host_free_blocks"] = facts["num_host_blocks"]
        facts.setdefault("num_running", num_running)
        return facts


def _sample(text: str, name: str) -> tuple[str, float] | None:
    found = re.search(_SAMPLE.format(name=re.escape(name)), text, re.MULTILINE)
    if found is None:
        return None
    try:
        return found[1] or "", float(found[2])
    except ValueError:
        return None
