"""How long a session waits for its first token after a pause, by what became of its KV."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rlkv.bench.measure import Size
from rlkv.calibration import Sizes, provisional_profile
from rlkv.engine_setup import load
from rlkv.provenance import device_name
from rlkv_agents.rules import make_rule
from rlkv_engine import state as S
from rlkv_engine.estimates import fit_pause_table
from rlkv_engine.paged.engine import PagedEngine
from rlkv_envs.workloads import make_workload

if TYPE_CHECKING:
    from rlkv_engine.paged.loading import LoadedModel

#: Verbs, as the rules that always say them.
VERBS = ("preserve", "swap", "discard")
BLOCK_SIZE = 16
#: Tokens that the tool returns.
RETURNED_TOKENS = 16
#: Longest chunk of prefill on a GPU, as vLLM has it for serving (``max_num_batched_tokens``).
BATCHED_TOKENS_OF_GPU = 2048


def resume(size: Size) -> dict[str, Any]:
    """Seconds from a tool's return to the next token, by verb and context, alone on the engine.

    Between pause and return a stranger takes every block it can have: what was preserved stays,
    what was swapped is on the host alone, what was discarded is overwritten.
    """
    loaded = load(size.engine_model)
    longest = loaded.config.max_position_embeddings - RETURNED_TOKENS - 8
    contexts = [tokens for tokens in size.resume_contexts if tokens <= longest]
    seconds: dict[str, dict[str, float]] = {verb: {} for verb in VERBS}
    for tokens in contexts:
        took: dict[str, list[float]] = {verb: [] for verb in VERBS}
        for repetition in range(size.repetitions + 1):
            for verb in VERBS:
                took_s = _resume_s(loaded, verb, tokens, seed=repetition)
                if repetition > 0:  # the first warms up
                    took[verb].append(took_s)
        for verb in VERBS:
            seconds[verb][str(tokens)] = statistics.median(took[verb])
    last = str(contexts[-1])
    return {
        "figures": {
            f"resume_s_{verb}_{tokens}": seconds[verb][tokens]
            for verb in VERBS
            for tokens in seconds[verb]
        }
        | {
            "swap_over_preserve": seconds["swap"][last] / seconds["preserve"][last],
            "discard_over_swap": seconds["discard"][last] / seconds["swap"][last],
        },
        "measured_on": {
            "model": loaded.name,
            "device": device_name(loaded.model.device),
            "dtype": str(loaded.model.dtype).removeprefix("torch."),
            "returned_tokens": RETURNED_TOKENS,
            "batched_tokens": _sizes(loaded).max_num_batched_tokens,
        },
    }


def _resume_s(loaded: LoadedModel, verb: str, tokens: int, seed: int) -> float:
    num_blocks = -(-(tokens + RETURNED_TOKENS + 8) // BLOCK_SIZE) + 4
    # Where it is preserved, the stranger gets blocks of its own.
    pool = 2 * num_blocks if verb == "preserve" else num_blocks
    sizes = replace(_sizes(loaded), num_device_blocks=pool, num_host_blocks=2 * num_blocks)
    profile = provisional_profile(loaded, sizes)
    table = fit_pause_table(
        make_workload("crossover").bodies(np.random.default_rng(0), "train", 99)
    )
    rule = make_rule(verb)
    random = np.random.default_rng(seed)
    vocabulary = loaded.config.vocab_size
    engine = PagedEngine(
        loaded,
        profile,
        rule.params(table),
        table,
        lease_s=rule.leases(profile, table),
        prefix_caching=False,
    )
    try:
        session = engine.add_session(
            random.integers(vocabulary, size=tokens - 1).tolist(), max_new_tokens=2
        )
        _run_turn(engine, session)
        engine.pause(session, "tool")
        while engine.idle_s == 0.0:
            engine.step()
        stranger_tokens = (num_blocks - 1) * BLOCK_SIZE - 4
        stranger = engine.add_session(
            random.integers(vocabulary, size=stranger_tokens).tolist(), max_new_tokens=2
        )
        _run_turn(engine, stranger)
        engine.cancel(stranger)
        while engine.idle_s == 0.0:
            engine.step()
        _check(engine, verb, tokens)
        returned = random.integers(vocabulary, size=RETURNED_TOKENS).tolist()
        start_s = time.perf_counter()
        engine.resume(session, returned, max_new_tokens=1)
        _run_turn(engine, session)
        return time.perf_counter() - start_s
    finally:
        engine.close()


def _sizes(loaded: LoadedModel) -> Sizes:
    # A GPU computes few tokens in the time of one: chunks as small as a CPU's would cost it ten
    # times as long, and discarding would seem worse than it is.
    if loaded.model.device.type == "cuda":
        return replace(Sizes(), max_num_batched_tokens=BATCHED_TOKENS_OF_GPU)
    return Sizes()


def _run_turn(engine: PagedEngine, session: int) -> None:
    while not any(token.session == session and token.end for token in engine.step()):
        pass


def _check(engine: PagedEngine, verb: str, tokens: int) -> None:
    # The session is where its verb says: otherwise the figure would be of something else.
    state = engine.state
    (slot,) = np.flatnonzero(state.slot[S.PHASE] == S.PAUSED)
    resident = int(state.slot[S.DEV, slot]) * BLOCK_SIZE
    on_host = int(state.slot[S.HOST_HI, slot] - state.slot[S.HOST_LO, slot]) * BLOCK_SIZE
    expected = {
        "preserve": resident >= tokens,
        "swap": resident <= tokens // 4 and on_host > tokens // 2,
        "discard": resident <= tokens // 4 and on_host == 0,
    }
    if not expected[verb]:
        raise RuntimeError(f"{verb}: {resident} tokens on the device, {on_host} on the host")
