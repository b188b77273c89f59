"""How long and how often: sizes of the benches, and the median of repetitions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: SmolLM2-135M, in the words of transformers.
SMOLLM2_135M: Mapping[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}

#: A prefill of its contexts takes a good part of a turn on two cores, as that of a large model
#: does on a large machine.
VLLM_SHAPE: Mapping[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured; tests take less."""

    repetitions: int = 5
    #: Sessions in the system at a time, for the cost of an iteration against their number.
    concurrent: Sequence[int] = (16, 64, 128, 512, 1024, 4096)
    #: Iterations of one repetition at 128 sessions, about; with more sessions fewer.
    iterations: int = 200_000
    #: Sessions of the run that the plain Python reference does too; 0 leaves it out.
    reference_sessions: int = 24
    num_envs: Sequence[int] = (64, 256)
    env_steps: int = 400
    train_envs: int = 64
    train_steps: int = 256  #: of each environment in a rollout
    train_sessions: int = 400
    forks_per_trace: int = 125
    #: Sessions of the traces whose evaluation is weighed; empty leaves it out.
    evaluated_sessions: Sequence[int] = (10_000, 100_000)
    train_rounds: int = 4  #: of the run whose memory is weighed; 0 leaves it out
    #: Rounds after which a learner has to have passed the tuned rule; 0 leaves it out.
    pass_rounds: int = 48
    pass_sessions: int = 1000  #: of its traces, as the scenario has
    inference_rows: Sequence[int] = (1, 128)
    inference_calls: int = 2000
    engine_shape: Mapping[str, Any] = field(default_factory=lambda: SMOLLM2_135M)
    engine_tokens: int = 32  #: that a stream decodes
    engine_model: str = "tiny"  #: of fidelity, resume, and the iterations beside a swap
    calibration_rounds: int = 3
    calibration_blocks: int = 512  #: of the device pool; loads are as long as it takes
    fidelity_workloads: Sequence[str] = ("crossover", "coding-agent")
    fidelity_rules: Sequence[str] = ("house", "two-tier-lru", "discard")
    fidelity_sessions: int = 120  #: of each trace
    fidelity_seeds: int = 4
    fidelity_around_sessions: int = 24  #: that measure the machine's speed between two of them
    http_requests: int = 3000
    proxy_streams: Sequence[int] = (1, 64, 256)  #: at a time
    proxy_chunks: int = 50  #: of a stream
    resume_contexts: Sequence[int] = (64, 256, 1024, 4096, 16384)  #: those that the model takes
    sidecar_requests: int = 2000  #: of each kind
    pace_rounds: int = 40  #: in each of which every way of asking has its iterations
    age_scenarios: Sequence[str] = ("crossover-slow", "coding")
    answer_ages: Sequence[int] = (1, 4, 16, 64)  #: iterations
    age_sessions: int | None = None  #: of each trace; None: as many as the scenario has
    age_seeds: int = 16
    vllm_shape: Mapping[str, Any] = field(default_factory=lambda: VLLM_SHAPE)
    vllm_policies: Sequence[str] = ("lru", "preserve", "ttl", "rule", "sidecar")
    vllm_runs: int = 5  #: of every policy
    vllm_workload: str = "crossover"
    vllm_context_tokens: int = 768  #: the longest
    vllm_agents: int = 16  #: of a run
    vllm_concurrent: float = 8.0  #: agents at a time, about
    vllm_pressure: float = 2.5  #: what they want to hold over the pool
    vllm_stranger_load: float = 0.15  #: of the server's time, alone
    vllm_pace_turns: int = 40
    vllm_admissions: int = 8


def median_cpu_s(run: Callable[[], object], repetitions: int) -> float:
    """Median CPU time of a run, seconds; a first run, which may compile, is not counted.

    CPU time and not wall time: what is measured has one thread, and its core may be shared.
    """
    run()
    durations = []
    for _ in range(repetitions):
        start = time.process_time()
        run()
        durations.append(time.process_time() - start)
    return statistics.median(durations)
