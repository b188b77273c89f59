"""Small live engines on the summing model, on which a few sessions fill both tiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.rules import make_rule
from rlkv_engine import state as S
from rlkv_engine.config import EngineConfig
from rlkv_engine.estimates import PauseTable, fit_pause_table
from rlkv_engine.loop import RULE_POLICY, Policy, make_policy
from rlkv_engine.observe import NUM_FEATURES
from rlkv_engine.paged.clock import SimulatedClock
from rlkv_engine.paged.copies import Copy, CopyEngine, copy_engine
from rlkv_engine.paged.engine import PagedEngine
from rlkv_engine.profile import Profile, load_profile
from rlkv_engine.trace import Trace
from tests.engine.paged.summing_model import next_token, summing_model

BLOCK_SIZE = 4
TOOLS = ("search", "shell")
VERBS = (S.PRESERVE, S.SWAP, S.DISCARD)


def tiny_profile(num_device_blocks: int = 24, num_host_blocks: int = 16) -> Profile:
    return replace(
        load_profile("gptj-6b-a100"),
        name="tiny",
        block_size=BLOCK_SIZE,
        num_device_blocks=num_device_blocks,
        num_host_blocks=num_host_blocks,
        # One to three blocks are copied in an iteration.
        swap_out_bytes_per_s=2.0 * BLOCK_SIZE * 458_752 / 0.01,
        swap_in_bytes_per_s=2.0 * BLOCK_SIZE * 458_752 / 0.01,
        max_num_seqs=6,
        max_num_batched_tokens=24,
    )


def pause_table() -> PauseTable:
    """Pauses of about a second, two tools."""
    ints = np.ones(40, np.int64)
    pauses = np.linspace(0.1, 3.0, 40)
    pauses[1::2] = np.nan
    return fit_pause_table(
        Trace(
            "pauses",
            TOOLS,
            np.arange(0, 41, 2),
            np.arange(20.0),
            ints,
            0 * ints,
            ints,
            np.where(np.isnan(pauses), -1, np.arange(40) // 2 % 2),
            pauses,
            [str(i) for i in range(20)],
            [str(i) for i in range(20)],
        )
    )


def one_verb(verb: int) -> Policy:
    """Answers every decision with one verb, where that is legal."""
    return mixed_verbs(np.full(3, 0.0) + 50.0 * (np.arange(3) == verb))


def mixed_verbs(bias: Sequence[float] | NDArray[np.float64], seed: int | None = None) -> Policy:
    """A network with these biases on the verbs; with a seed it also looks at what it decides."""
    random = np.random.default_rng(seed)
    scale = 0.0 if seed is None else 3.0
    weights = [
        scale * random.standard_normal((8, NUM_FEATURES)), np.zeros(8),
        scale * random.standard_normal((8, 8)), np.zeros(8),
        scale * random.standard_normal((3, 8)), np.array(bias, np.float64),
    ]  # fmt: skip
    return make_policy(weights)


def small_engine(
    policy: Policy = RULE_POLICY,
    profile: Profile | None = None,
    max_tokens: int = 4096,
    prefix_caching: bool = True,
    config: EngineConfig | None = None,
    device: str = "cpu",
) -> PagedEngine:
    profile, table = profile or tiny_profile(), pause_table()
    return PagedEngine(
        summing_model(max_tokens, device),  # type: ignore[arg-type]
        profile,
        make_rule("house").params(table),
        table,
        config=config,
        prefix_caching=prefix_caching,
        clock=SimulatedClock(),
        policy=policy,
    )


def assert_right_tokens(tokens: Sequence[int], num_prompt: int) -> None:
    """What follows a prompt of so many tokens is what a run without any cache generates."""
    for i in range(num_prompt, len(tokens)):
        assert tokens[i] == next_token(tokens[:i]), f"token {i} of {len(tokens)}"


class FailingCopies:
    """The engine's own way to copy, but some copies fail, half done, as ``fails`` says."""

    def __init__(self, engine: PagedEngine, fails: Sequence[bool]) -> None:
        self._arena = engine._arena
        self._copies = copy_engine(engine._arena)
        self._failed: list[Copy] = []
        self.fails = list(fails)
        self.num_failed = 0

    def start(self, copies: Sequence[Copy]) -> None:
        fails = [bool(self.fails and self.fails.pop(0)) for _ in copies]
        for copy in (copy for copy, failing in zip(copies, fails, strict=True) if failing):
            # Something was written, but not what should have been.
            if copy.out:
                self._arena.host[list(copy.host)] = -1.0
            else:
                self._arena.device[:, :, list(copy.device)] = -1.0
            self._failed.append(copy)
            self.num_failed += 1
        self._copies.start([c for c, failing in zip(copies, fails, strict=True) if not failing])

    def wait(self) -> list[Copy]:
        failed, self._failed = self._failed, []
        return failed + self._copies.wait()

    def close(self) -> None:
        self._copies.close()


def use_copies(engine: PagedEngine, copies: CopyEngine) -> None:
    """Makes an engine copy with ``copies`` from now on."""
    engine._copies.close()
    engine._copies = engine._executor._copies = copies
