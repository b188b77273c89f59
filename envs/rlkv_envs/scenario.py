"""What an environment simulates: machine, workload, arrivals, reference rule and episode length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypedDict, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import rule as R
from rlkv_engine.config import EngineConfig
from rlkv_engine.errors import InputError
from rlkv_engine.estimates import BY_TOOL, PauseTable, fit_pause_table
from rlkv_engine.profile import Profile, load_profile
from rlkv_engine.state import SWAP
from rlkv_engine.trace import Trace
from rlkv_envs.workloads import SPLITS, ArrivalProcess, Split, Workload, make_trace, make_workload
from rlkv_envs.workloads.arrivals import Poisson

RewardKind = Literal["paired", "cost"]
T = TypeVar("T", bound=str)

#: GPT-J-6B on an A100 whose link is as slow, next to recomputing, as that of newer GPUs.
DEFAULT_PROFILE = "gptj-6b-a100+link0.125"
DEFAULT_WORKLOAD = "crossover"
#: Sessions per second about the knee of the default profile and workload.
DEFAULT_RATE_PER_S = 4.5
#: The training sessions that the default pause table is fitted on.
TABLE_SEED, TABLE_SESSIONS = 2**31 - 1, 2000


class ScenarioOptions(TypedDict, total=False):
    """Keyword arguments of the environments; ``KVMemoryEnv`` says what they are."""

    profile: Profile | str
    workload: Workload | str
    arrivals: ArrivalProcess | None
    rule: NDArray[np.float64] | None
    table: PauseTable | None
    num_sessions: int
    horizon_s: float
    reward: RewardKind
    split: Split
    ask_call: bool


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """Options with every name looked up and every default filled in."""

    profile: Profile
    workload: Workload
    arrivals: ArrivalProcess
    rule: NDArray[np.float64]  # [RULE_SIZE]
    table: PauseTable
    config: EngineConfig
    num_sessions: int
    horizon_s: float
    reward: RewardKind
    split: Split

    def trace(self, seed: int) -> Trace:
        """The trace of a seed; the same seed gives the same trace."""
        return make_trace(
            self.workload,
            self.arrivals,
            seed=seed,
            split=self.split,
            num_sessions=self.num_sessions,
        )


def house_rule(mean_pause_s: float) -> NDArray[np.float64]:
    """The reference rule, shape ``[RULE_SIZE]``: the strongest single rule known so far.

    Copies go out while the link is idle; victims by expected remaining pause; swapped for a new
    session, and for a returning or growing one where the link is faster than recomputing. A new
    session may not take from one expected back within two mean pauses.
    """
    rule = np.zeros(R.RULE_SIZE)
    rule[R.ORDER] = R.ORDER_REMAINING
    rule[R.ESTIMATE] = BY_TOOL
    rule[[R.CALL_VERB, R.NEW_VERB]] = SWAP
    rule[[R.RESUME_VERB, R.GROW_VERB]] = R.AUTO
    rule[R.SWAP_RATIO] = 1.0
    rule[R.GUARD_S] = 2.0 * mean_pause_s
    return rule


def make_scenario(options: ScenarioOptions) -> Scenario:
    """Looks names up and fills defaults in.

    Raises:
        InputError: an unknown name, or a value that cannot be.
    """
    profile = options.get("profile", DEFAULT_PROFILE)
    workload = options.get("workload", DEFAULT_WORKLOAD)
    if isinstance(workload, str):
        workload = make_workload(workload)
    table = options.get("table")
    if table is None:
        table = fit_default_table(workload)
    rule = options.get("rule")
    horizon_s = float(options.get("horizon_s", math.inf))
    if not horizon_s > 0:
        raise InputError(f"horizon_s must be above 0, got {horizon_s}")
    num_sessions = int(options.get("num_sessions", 300))
    if num_sessions < 1:
        raise InputError(f"num_sessions must be 1 or more, got {num_sessions}")
    return Scenario(
        profile=load_profile(profile) if isinstance(profile, str) else profile,
        workload=workload,
        arrivals=options.get("arrivals") or workload.default_arrivals(DEFAULT_RATE_PER_S),
        rule=house_rule(table.mean_pause_s) if rule is None else np.asarray(rule, np.float64),
        table=table,
        config=EngineConfig(ask_call=bool(options.get("ask_call", True))),
        num_sessions=num_sessions,
        horizon_s=horizon_s,
        reward=_one_of("reward", options.get("reward", "paired"), get_args(RewardKind)),
        split=_one_of("split", options.get("split", "train"), SPLITS),
    )


def fit_default_table(workload: Workload) -> PauseTable:
    """Pause statistics of training sessions that no episode with a seed below 2**31 - 1 sees."""
    return fit_pause_table(
        make_trace(
            workload, Poisson(1.0), seed=TABLE_SEED, split="train", num_sessions=TABLE_SESSIONS
        )
    )


def _one_of(name: str, value: T, allowed: tuple[T, ...]) -> T:
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return value
