"""Keyword arguments of the environments: names looked up, defaults filled in, values checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import rule as R
from rlkv_engine.config import EngineConfig
from rlkv_engine.errors import InputError
from rlkv_engine.estimates import BY_TOOL, PauseTable
from rlkv_engine.profile import Profile, load_profile
from rlkv_engine.state import SWAP
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario, load_scenario
from rlkv_envs.workloads import SPLITS, ArrivalProcess, Split, Workload, make_workload

RewardKind = Literal["paired", "cost"]
T = TypeVar("T", bound=str)

#: GPT-J-6B on an A100-40GB behind an eighth of its link: copying costs about what recomputing does.
DEFAULT_PROFILE = "gptj-6b-a100-40gb+link0.125"
DEFAULT_WORKLOAD = "crossover"
#: Sessions per second about the knee of the default profile and workload. Measured with the default
#: rule on 24 traces of 300 sessions: 0.0105 s/token on an empty engine, 0.016 at 1.8/s (14 REVISITs
#: a trace), 0.023 at 2.3/s (350), 0.031 at 2.5/s (730), 0.065 at 3/s (more than it can serve).
DEFAULT_RATE_PER_S = 2.3
DEFAULT_SESSIONS = 300


class EnvOptions(TypedDict, total=False):
    """Keyword arguments of the environments; ``KVMemoryEnv`` says what they are."""

    scenario: Scenario | str | None
    profile: Profile | str | None
    workload: Workload | str | None
    arrivals: ArrivalProcess | None
    rule: NDArray[np.float64] | None
    lease_s: NDArray[np.float64] | None
    table: PauseTable | None
    num_sessions: int | None
    horizon_s: float
    reward: RewardKind
    split: Split
    ask_call: bool


@dataclass(frozen=True, slots=True, eq=False)
class EnvSettings:
    """What an environment simulates and how it rewards."""

    scenario: Scenario
    rule: NDArray[np.float64]  # [RULE_SIZE]
    lease_s: NDArray[np.float64] | None  # [num_rows] of the table
    table: PauseTable
    config: EngineConfig
    horizon_s: float
    reward: RewardKind
    split: Split

    def trace(self, seed: int) -> Trace:
        """The trace of a seed; the same seed gives the same trace."""
        return self.scenario.trace(seed, self.split)


def house_rule(mean_pause_s: float) -> NDArray[np.float64]:
    """The default reference rule, shape ``[RULE_SIZE]``: the house rule with plain constants.

    Copies go out while the link is idle; victims by expected remaining pause; swapped for a new
    session, and for a returning or growing one where copying takes less than eight times as long as
    recomputing. A new session may not take from one expected back within two mean pauses.
    """
    rule = np.zeros(R.RULE_SIZE)
    rule[R.ORDER] = R.ORDER_REMAINING
    rule[R.ESTIMATE] = BY_TOOL
    rule[[R.CALL_VERB, R.NEW_VERB]] = SWAP
    rule[[R.RESUME_VERB, R.GROW_VERB]] = R.AUTO
    rule[R.SWAP_RATIO] = 8.0
    rule[R.GUARD_S] = 2.0 * mean_pause_s
    rule[R.SLACK_RATIO] = 0.003
    return rule


def make_settings(options: EnvOptions) -> EnvSettings:
    """Looks names up and fills defaults in.

    Raises:
        InputError: an unknown name, or a value that cannot be.
    """
    scenario = _scenario(options)
    horizon_s = float(options.get("horizon_s", math.inf))
    if not horizon_s > 0:
        raise InputError(f"horizon_s must be above 0, got {horizon_s}")
    table = options.get("table") or scenario.table
    rule = options.get("rule")
    return EnvSettings(
        scenario=scenario,
        rule=house_rule(table.mean_pause_s) if rule is None else np.asarray(rule, np.float64),
        lease_s=options.get("lease_s"),
        table=table,
        config=EngineConfig(ask_call=bool(options.get("ask_call", True))),
        horizon_s=horizon_s,
        reward=_one_of("reward", options.get("reward", "paired"), get_args(RewardKind)),
        split=_one_of("split", options.get("split", "train"), SPLITS),
    )


def _scenario(options: EnvOptions) -> Scenario:
    # A scenario, with what is given beside it in the place of its own.
    base = options.get("scenario")
    if isinstance(base, str):
        base = load_scenario(base)
    profile, workload = options.get("profile"), options.get("workload")
    arrivals, num_sessions = options.get("arrivals"), options.get("num_sessions")
    if profile is None:
        profile = base.profile if base else DEFAULT_PROFILE
    if workload is None:
        workload = base.workload if base else DEFAULT_WORKLOAD
    if num_sessions is None:
        num_sessions = base.num_sessions if base else DEFAULT_SESSIONS
    if base is not None and arrivals is None:
        arrivals = base.arrivals
    return Scenario(
        name=base.name if base else "custom",
        profile=load_profile(profile) if isinstance(profile, str) else profile,
        workload=make_workload(workload) if isinstance(workload, str) else workload,
        rate_per_s=base.rate_per_s if base else DEFAULT_RATE_PER_S,
        num_sessions=int(num_sessions),
        arrivals=arrivals,
    )


def _one_of(name: str, value: T, allowed: Sequence[T]) -> T:
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return value
