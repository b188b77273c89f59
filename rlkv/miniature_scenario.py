"""A workload brought to the size of a small model on this machine, with memory that binds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlkv_engine.profile import Profile
from rlkv_envs.scenario import Scenario
from rlkv_envs.workloads import make_workload
from rlkv_envs.workloads.miniature import Miniature

#: Pauses last this many times what it takes to compute a mean context again.
_PAUSE_RECOMPUTES = 20.0
#: A pause is no longer than so many mean pauses: a demonstration has to end.
_LONGEST_PAUSES = 6.0
#: Sessions from which loads and sizes are reckoned.
_SAMPLE = 200


def miniature_scenario(
    workload: str,
    profile: Profile,
    *,
    max_context_tokens: int,
    num_sessions: int,
    num_concurrent: float,
    memory: float,
) -> Scenario:
    """Sessions of a workload for the machine of ``profile``, whose pools it sets.

    Args:
        workload: a workload's name.
        profile: costs of the model on this machine.
        max_context_tokens: longest context.
        num_sessions: sessions of a trace.
        num_concurrent: sessions in the system at a time, about, if nobody waits.
        memory: the device pool as a share of what these sessions want to hold; the host pool is as
            large.

    Raises:
        InputError: unknown workload, or a size that cannot be.
    """
    source = make_workload(workload)
    probe = Miniature(source, max_context_tokens=max_context_tokens, mean_pause_s=1.0)
    bodies = probe.bodies(np.random.default_rng(0), "train", _SAMPLE)
    contexts = bodies.input_tokens + bodies.output_tokens
    mean_pause_s = _PAUSE_RECOMPUTES * profile.recompute_s(int(contexts.mean()))
    small = Miniature(
        source,
        max_context_tokens=max_context_tokens,
        mean_pause_s=mean_pause_s,
        max_pause_s=_LONGEST_PAUSES * mean_pause_s,
    )
    bodies = small.bodies(np.random.default_rng(0), "train", _SAMPLE)
    decode_s = profile.iteration_s + num_concurrent / 2 * (
        profile.decode_session_s + profile.kv_token_s * float(contexts.mean())
    )
    session_s = (
        bodies.total_pause_s + bodies.output_tokens_per_session * decode_s
    ).mean() + profile.recompute_s(int(contexts.mean()))
    block_size = profile.block_size
    wanted = num_concurrent * -(-float(contexts.mean()) // block_size)
    blocks = max(int(memory * wanted), -(-max_context_tokens // block_size) + 1)
    return Scenario(
        f"{workload}@{profile.name}",
        replace(profile, num_device_blocks=blocks, num_host_blocks=blocks),
        small,
        num_concurrent / session_s,
        num_sessions,
    )
