"""What computing costs on a vLLM server of this machine, and traffic that fits it."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np

from rlkv.bench.measure import Size
from rlkv.real_vllm.server import BLOCK_SIZE, VllmServer
from rlkv.real_vllm.traffic import (
    STRANGER_OUTPUT_TOKENS,
    STRANGER_PROMPT_TOKENS,
    Session,
    agents,
    random_tokens,
    strangers,
)
from rlkv_envs.workloads import make_workload
from rlkv_envs.workloads.arrivals import Poisson
from rlkv_envs.workloads.compose import make_trace
from rlkv_envs.workloads.miniature import Miniature

#: A pause takes so many times what it takes to compute a mean context again, and at most so many
#: mean pauses: some seconds of a tool beside half a second of prefill, as on a large machine.
_PAUSE_RECOMPUTES = 14.0
_LONGEST_PAUSES = 4.0
#: Sessions from which sizes are reckoned.
_SAMPLE = 200
_PROBE_OUTPUT_TOKENS = 33
_LEAST_S = 1e-5


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one request alone on the server, seconds."""

    prefill_token_s: float
    decode_token_s: float


def measure_costs(server: VllmServer, size: Size) -> Costs:
    """Medians over a few prompts that the server does not know."""
    random = np.random.default_rng(0)
    tokens = size.vllm_context_tokens // 2
    prefill_s, decode_s = [], []
    for repetition in range(size.repetitions + 1):
        prompt = random_tokens(random, tokens)
        start_s = time.perf_counter()
        server.complete(prompt, 1)
        first_s = time.perf_counter()
        server.complete(prompt, 1)
        cached_s = time.perf_counter()
        server.complete(prompt, _PROBE_OUTPUT_TOKENS)
        end_s = time.perf_counter()
        if repetition > 0:  # the first warms up
            # What a request costs besides its tokens is in both.
            again_s = cached_s - first_s
            prefill_s.append((first_s - start_s - again_s) / (tokens - BLOCK_SIZE))
            decode_s.append((end_s - cached_s - again_s) / (_PROBE_OUTPUT_TOKENS - 1))
    # Beside other work, what a small model computes can be lost in what a request takes anyway.
    return Costs(
        max(_LEAST_S, statistics.median(prefill_s)), max(_LEAST_S, statistics.median(decode_s))
    )


@dataclass(frozen=True, slots=True)
class Memory:
    """What agents of a workload want to hold, and a pool that cannot hold it all."""

    mean_context_tokens: float
    num_blocks: int  #: of the device pool, vLLM's own one not counted

    @classmethod
    def of(cls, size: Size) -> Memory:
        """The pool of a size."""
        bodies = _scaled(size, 1.0).bodies(np.random.default_rng(0), "train", _SAMPLE)
        context = float((bodies.input_tokens + bodies.output_tokens).mean())
        wanted = size.vllm_concurrent * -(-context // BLOCK_SIZE)
        longest = -(-size.vllm_context_tokens // BLOCK_SIZE)
        return cls(context, max(int(wanted / size.vllm_pressure), longest + 1))


@dataclass(frozen=True, slots=True)
class Load:
    """Agents of a workload and strangers, as fast as a server's costs allow."""

    workload: Miniature
    num_agents: int
    agents_per_s: float
    num_strangers: int
    strangers_per_s: float
    mean_pause_s: float

    @classmethod
    def of(cls, costs: Costs, memory: Memory, size: Size) -> Load:
        """The load of a size."""
        mean_pause_s = _PAUSE_RECOMPUTES * memory.mean_context_tokens * costs.prefill_token_s
        workload = _scaled(size, mean_pause_s)
        bodies = workload.bodies(np.random.default_rng(0), "train", _SAMPLE)
        # A token takes longer beside others.
        token_s = 2.0 * costs.decode_token_s
        session_s = float(
            (bodies.total_pause_s + bodies.output_tokens_per_session * token_s).mean()
        )
        agents_per_s = size.vllm_concurrent / session_s
        stranger_s = float(
            np.mean(STRANGER_PROMPT_TOKENS) * costs.prefill_token_s
            + np.mean(STRANGER_OUTPUT_TOKENS) * costs.decode_token_s
        )
        strangers_per_s = size.vllm_stranger_load / stranger_s
        # They come for as long as agents do, and those that came last are there.
        num_strangers = strangers_per_s * (size.vllm_agents / agents_per_s + session_s / 2)
        return cls(
            workload,
            size.vllm_agents,
            agents_per_s,
            max(1, round(num_strangers)),
            strangers_per_s,
            mean_pause_s,
        )

    def sessions(self, seed: int) -> list[Session]:
        """The traffic of a seed, the same whenever it is drawn."""
        trace = make_trace(
            self.workload,
            Poisson(self.agents_per_s),
            seed=seed,
            split="test",
            num_sessions=self.num_agents,
        )
        return agents(trace, seed) + strangers(self.num_strangers, self.strangers_per_s, seed)


def _scaled(size: Size, mean_pause_s: float) -> Miniature:
    return Miniature(
        make_workload(size.vllm_workload),
        max_context_tokens=size.vllm_context_tokens,
        mean_pause_s=mean_pause_s,
        max_pause_s=_LONGEST_PAUSES * mean_pause_s,
    )
