"""Benchmarks of rlkv itself: each measures its ratios side by side, in one run.

A bench is a function of a ``Size`` that returns figures and what they were measured on;
``run_bench`` makes a record of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlkv.bench.measure import Size
from rlkv.provenance import command, commit, machine
from rlkv_engine.errors import InputError

#: Is told what a bench is at.
Say = Callable[[str], None]


def _sim(size: Size) -> dict[str, Any]:
    from rlkv.bench.sim import sim

    return sim(size)


def _env(size: Size) -> dict[str, Any]:
    from rlkv.bench.env import env

    return env(size)


def _train(size: Size) -> dict[str, Any]:
    from rlkv.bench.train import train

    return train(size)


def _inference(size: Size) -> dict[str, Any]:
    from rlkv.bench.inference import inference

    return inference(size)


def _engine(size: Size) -> dict[str, Any]:
    from rlkv.bench.engine import engine

    return engine(size)


def _fidelity(size: Size) -> dict[str, Any]:
    from rlkv.bench.fidelity import fidelity

    return fidelity(size)


def _gpu(size: Size) -> dict[str, Any]:
    from rlkv.bench.gpu_kernels import gpu_kernels

    return gpu_kernels(size)


def _swap(size: Size) -> dict[str, Any]:
    from rlkv.bench.swap import swap

    return swap(size)


def _resume(size: Size) -> dict[str, Any]:
    from rlkv.bench.resume import resume

    return resume(size)


def _decision_api(size: Size) -> dict[str, Any]:
    from rlkv.bench.decision_api import decision_api

    return decision_api(size)


def _sidecar(size: Size) -> dict[str, Any]:
    from rlkv.bench.sidecar import sidecar

    return sidecar(size)


def _proxy(size: Size) -> dict[str, Any]:
    from rlkv.bench.proxy import proxy

    return proxy(size)


def _answer_age(size: Size) -> dict[str, Any]:
    from rlkv.bench.answer_age import answer_age

    return answer_age(size)


def _vllm(size: Size, say: Say) -> dict[str, Any]:
    from rlkv.bench.vllm import vllm

    return vllm(size, say)


#: Every bench by name, in the order of ``rlkv bench all``; imports what it needs when it runs.
BENCHES: dict[str, Callable[[Size], dict[str, Any]]] = {
    "sim": _sim,
    "env": _env,
    "train": _train,
    "inference": _inference,
    "engine": _engine,
    "fidelity": _fidelity,
    "swap": _swap,
    "resume": _resume,
    "sidecar": _sidecar,
    "decision-api": _decision_api,
    "proxy": _proxy,
    "answer-age": _answer_age,
}

#: Benches that need a GPU or a vLLM, and are no part of ``all``.
OTHER_BENCHES: dict[str, Callable[[Size], dict[str, Any]]] = {"gpu": _gpu}

#: Benches that take so long that they say what they are at, likewise no part of ``all``.
TALKING_BENCHES: dict[str, Callable[[Size, Say], dict[str, Any]]] = {"vllm": _vllm}

#: What is aimed at: figure -> (``>=`` or ``<=``, value).
AIMS: dict[str, tuple[str, float]] = {
    "iterations_per_s_128": (">=", 1e6),
    "steps_per_cpu_s_over_sb3_trivial": (">=", 0.6),
    # Two resident set sizes are compared; they vary by about half a byte a session.
    "evaluation_growth_bytes_per_session": ("<=", 1.0),
    "cpu_s_to_pass_rule": ("<=", 60.0),
    **{
        f"{what}_over_{other}": (">=", 1.0)
        for what in ("decode_1", "decode_8", "prefill_512")
        for other in ("vllm", "transformers")
    },
    "worst_error_ratio": ("<=", 0.03),
    "copy_over_memcpy": (">=", 0.9),
    "round_trip_16_over_ping": ("<=", 8.0),
    "decisions_per_s_128": (">=", 1e6),
    "ask_us": ("<=", 20.0),
    "pace_dead_over_none": (">=", 0.99),
    "added_p50_ms_64": ("<=", 1.0),
    "iteration_slowed_ratio": ("<=", 1.05),
    "gather_over_copy": (">=", 0.9),
    "scatter_over_copy": (">=", 0.9),
    "decode_over_copy": (">=", 0.8),
    "pace_stopped_over_none": (">=", 0.99),
    "admission_over_empty": ("<=", 1.25),
}


def run_bench(name: str, size: Size | None = None, say: Say = lambda text: None) -> dict[str, Any]:
    """Runs one bench.

    Args:
        name: of the bench.
        size: how much is measured.
        say: is told what a bench that takes long is at.

    Returns:
        ``bench``, ``figures`` (numbers by name), ``aims`` of those figures, ``measured_on`` (what
        the numbers belong to), and ``commit``, ``command`` and ``machine``.

    Raises:
        InputError: no such bench.
    """
    benches = BENCHES | OTHER_BENCHES
    if name in TALKING_BENCHES:
        result = TALKING_BENCHES[name](size or Size(), say)
    elif name in benches:
        result = benches[name](size or Size())
    else:
        names = ", ".join([*benches, *TALKING_BENCHES])
        raise InputError(f"unknown bench {name!r}: one of {names} or all")
    figures: dict[str, float] = result["figures"]
    aims = {
        figure: {
            "aim": f"{kind} {value:g}",
            "met": figures[figure] >= value if kind == ">=" else figures[figure] <= value,
        }
        for figure, (kind, value) in AIMS.items()
        if figure in figures
    }
    return {
        "bench": name,
        "figures": figures,
        "aims": aims,
        "measured_on": result["measured_on"],
        "commit": commit(),
        "command": command(),
        "machine": machine(),
    }
