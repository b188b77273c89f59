"""How fast the engine computes, beside vLLM and transformers on the same weights and cores."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rlkv.bench.measure import Size
from rlkv.bench.vllm_process import VllmProcess, vllm_python
from rlkv.calibration import Sizes, provisional_profile
from rlkv.engine_setup import load
from rlkv_agents.rules import make_rule
from rlkv_engine.estimates import fit_pause_table
from rlkv_engine.paged.engine import PagedEngine
from rlkv_envs.workloads import make_workload

if TYPE_CHECKING:
    from rlkv_engine.paged.loading import LoadedModel

CONTEXT_TOKENS = 256
PREFILL_TOKENS = 512
STREAMS = (1, 8)

#: ``generate(prompts, new tokens)``.
Generate = Callable[[list[list[int]], int], None]


def engine(size: Size) -> dict[str, Any]:
    """Tokens per second decoding at 1 and 8 streams, and prefill of 512 tokens, over the others'.

    All three hold the same random weights in fp32 and take the same prompts by turns. Decoding is
    the time of many output tokens less that of one, so that prompts do not count. vLLM runs in an
    environment of its own, whose Python ``RLKV_VLLM_PYTHON`` names; without it its figures are
    left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        reference = _save_model(Path(folder), size.engine_shape)
        loaded = load(folder, "cpu", "float32")
        engines: dict[str, Generate] = {
            "rlkv": _Ours(loaded),
            "transformers": _Transformers(reference),
        }
        python = vllm_python()
        vllm = VllmProcess(python, folder, torch.get_num_threads()) if python else None
        if vllm is not None:
            engines["vllm"] = vllm
        try:
            seconds = _measure(engines, size)
        finally:
            if vllm is not None:
                vllm.close()
    figures = {}
    for what, took in seconds.items():
        tokens = (
            PREFILL_TOKENS if what.startswith("prefill") else size.engine_tokens * int(what[7:])
        )
        for name, each in took.items():
            figures[f"{what}_tokens_per_s_{name}"] = tokens / statistics.median(each)
            if name != "rlkv":
                pairs = zip(each, took["rlkv"], strict=True)
                figures[f"{what}_over_{name}"] = statistics.median(a / b for a, b in pairs)
    return {
        "figures": figures,
        "measured_on": {
            "model": "random weights, fp32",
            "shape": dict(size.engine_shape),
            "threads": torch.get_num_threads(),
            "context_tokens": CONTEXT_TOKENS,
            "output_tokens": size.engine_tokens,
            "vllm": None if vllm is None else vllm.version,
        },
    }


def _measure(engines: dict[str, Generate], size: Size) -> dict[str, dict[str, list[float]]]:
    random, vocabulary = np.random.default_rng(0), int(size.engine_shape["vocab_size"])
    seconds: dict[str, dict[str, list[float]]] = {}
    for repetition in range(size.repetitions + 1):
        for streams in STREAMS:
            prompts = _prompts(random, vocabulary, streams, CONTEXT_TOKENS)
            for name, generate in engines.items():
                took_s = _took_s(generate, prompts, size.engine_tokens + 1)
                took_s -= _took_s(
                    generate, _prompts(random, vocabulary, streams, CONTEXT_TOKENS), 1
                )
                if repetition > 0:  # the first warms up
                    seconds.setdefault(f"decode_{streams}", {}).setdefault(name, []).append(took_s)
        prompts = _prompts(random, vocabulary, 1, PREFILL_TOKENS)
        for name, generate in engines.items():
            took_s = _took_s(generate, prompts, 1)
            if repetition > 0:
                what = f"prefill_{PREFILL_TOKENS}"
                seconds.setdefault(what, {}).setdefault(name, []).append(took_s)
    return seconds


def _prompts(
    random: np.random.Generator, vocabulary: int, count: int, length: int
) -> list[list[int]]:
    tokens: list[list[int]] = random.integers(vocabulary, size=(count, length)).tolist()
    return tokens


def _took_s(generate: Generate, prompts: list[list[int]], new_tokens: int) -> float:
    start_s = time.perf_counter()
    generate(prompts, new_tokens)
    return time.perf_counter() - start_s


def _save_model(folder: Path, shape: Mapping[str, Any]) -> Any:
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.manual_seed(0)
    # No token ends an output: all generate as many as they are asked for.
    config = transformers.LlamaConfig(**shape, bos_token_id=None, eos_token_id=None)
    model = transformers.LlamaForCausalLM(config)
    model.train(False)
    model.save_pretrained(folder)
    return model


class _Ours:
    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        workload = make_workload("crossover").bodies(np.random.default_rng(0), "train", 99)
        self._table = fit_pause_table(workload)

    def __call__(self, prompts: list[list[int]], new_tokens: int) -> None:
        sizes = replace(Sizes(), max_num_batched_tokens=2048, num_host_blocks=1)
        table = self._table
        engine = PagedEngine(
            self._loaded,
            provisional_profile(self._loaded, sizes),
            make_rule("house").params(table),
            table,
            prefix_caching=False,
        )
        running = {engine.add_session(prompt, max_new_tokens=new_tokens) for prompt in prompts}
        while running:
            running -= {token.session for token in engine.step() if token.end}
        engine.close()


class _Transformers:
    def __init__(self, model: Any) -> None:
        self._model = model

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[list[int]], new_tokens: int) -> None:
        ids = torch.tensor(prompts)
        self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
        )
