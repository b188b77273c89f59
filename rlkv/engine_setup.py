"""Puts a real engine together: a model, its costs here, a policy, what is known of pauses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from rlkv.calibration import Sizes, provisional_profile
from rlkv_agents.bundle import load_bundle
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import RULES, make_rule
from rlkv_engine.errors import InputError
from rlkv_engine.paged.attention import default_attention
from rlkv_engine.paged.engine import PagedEngine
from rlkv_engine.paged.loading import TINY, LoadedModel, load_model
from rlkv_engine.profile import Profile, load_profile
from rlkv_envs.scenario import Scenario
from rlkv_envs.workloads import make_workload

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_TINY_SIZES = Sizes(
    num_device_blocks=2048, num_host_blocks=4096, max_num_seqs=64, max_num_batched_tokens=512
)


def load(
    model: str = TINY,
    device: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> LoadedModel:
    """Loads a model with the attention that is right for the device.

    Args:
        model: ``tiny``, ``llama-1b-random``, a Hugging Face folder, or a GGUF file.
        device: ``cpu`` or ``cuda``; without it a GPU where there is one.
        dtype: ``float32``, ``bfloat16`` or ``float16``; without it what suits the device.
        threads: of a CPU; without it one for each core, and one alone for ``tiny``, whose little
            work is done sooner so.

    Raises:
        InputError: there is no such model, type or device.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if threads is not None and threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    if threads is not None or model == TINY:
        torch.set_num_threads(threads or 1)
    is_gpu = device.startswith("cuda")
    return load_model(
        model,
        dtype=_DTYPES[dtype or ("bfloat16" if is_gpu else "float32")],
        device=device,
        attention=default_attention(torch.device("cuda" if is_gpu else "cpu")),
    )


def check_setup(model: str, profile: str | None, policy: str, workload: str) -> None:
    """What can be refused before a model is loaded.

    Raises:
        InputError: no such profile, policy or workload, or a model that needs a profile.
    """
    if profile is not None:
        load_profile(profile)
    elif model != TINY:
        raise InputError(
            f"model {model!r} needs a profile: run rlkv calibrate, and give its profile.toml"
        )
    _load_policy(policy)
    make_workload(workload)


def engine_profile(
    loaded: LoadedModel,
    name: str | None = None,
    num_device_blocks: int | None = None,
    num_host_blocks: int | None = None,
) -> Profile:
    """The profile of a model on this machine, its pools changed where that is asked for.

    Args:
        loaded: the model.
        name: of a profile, or its file; without it that of ``tiny``.
        num_device_blocks: without it, as the profile says.
        num_host_blocks: without it, as the profile says.

    Raises:
        InputError: no such profile, or a pool that cannot be.
    """
    profile = tiny_profile(loaded) if name is None else load_profile(name)
    if num_device_blocks is not None:
        profile = replace(profile, num_device_blocks=num_device_blocks)
    if num_host_blocks is not None:
        profile = replace(profile, num_host_blocks=num_host_blocks)
    return profile


def tiny_profile(loaded: LoadedModel) -> Profile:
    """A profile of ``tiny`` where nobody has measured one."""
    return replace(
        provisional_profile(loaded, _TINY_SIZES),
        name="tiny-assumed",
        description="tiny, its costs about what rlkv calibrate found once on two cores",
        iteration_s=2e-3,
        prefill_token_s=2e-5,
        prefill_token_context_s=4e-8,
        kv_token_s=3.6e-7,
        swap_out_bytes_per_s=4e9,
        swap_in_bytes_per_s=6e9,
        swap_latency_s=5e-5,
    )


def build_engine(
    loaded: LoadedModel,
    profile: Profile | None = None,
    *,
    policy: str = "house",
    workload: str = "coding-agent",
) -> PagedEngine:
    """An engine that decides by a policy.

    Args:
        loaded: the model.
        profile: without it, that of ``tiny``.
        policy: a rule's name, ``universal``, or the folder of a bundle.
        workload: whose pauses are what is known of pauses, by the names of tools.

    Raises:
        InputError: no such policy or workload, or not enough memory.
    """
    profile = profile or engine_profile(loaded)
    scenario = Scenario("live", profile, make_workload(workload), rate_per_s=1.0, num_sessions=1)
    chosen = _load_policy(policy).on(scenario)
    table = scenario.table
    return PagedEngine(
        loaded,
        profile,
        chosen.rule.params(table),
        table,
        policy=chosen.compiled(),
        lease_s=chosen.rule.leases(profile, table),
    )


def warm_up(engine: PagedEngine) -> None:
    """Has an engine do everything once: compiled code is compiled before the first request."""
    engine.cancel(engine.add_session([0], max_new_tokens=1))
    session = engine.add_session([0], max_new_tokens=2)
    while not any(token.end for token in engine.step()):
        pass
    engine.pause(session, "warm up")
    while engine.idle_s == 0.0:
        engine.step()
    engine.resume(session, [0], max_new_tokens=9)
    while not engine.step():
        pass
    engine.pause(session, "warm up")
    engine.check_integrity()
    engine.cancel(session)


def _load_policy(name: str) -> AgentPolicy:
    is_rule = name in RULES
    policy = AgentPolicy(name, make_rule(name)) if is_rule else load_bundle(Path(name)).policy
    if policy.sees_future:
        raise InputError(f"policy {name!r} sees the future: it runs in the simulator alone")
    if policy.predicts_pauses:
        raise InputError(f"policy {name!r} predicts pauses from traces: it runs on these alone")
    return policy
