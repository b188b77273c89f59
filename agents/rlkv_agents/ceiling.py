"""The ceiling of each trace: the best plan that is found when its future is known.

In three steps, each kept in the folder with the digest of what it depends on: a short search from
every base; a longer one from the base that did best; and where the best plan departs from the
reference rule.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_agents import lookahead, plan, plan_differences, planner
from rlkv_agents.jobs import Job
from rlkv_agents.plan import EVERYWHERE, Plan
from rlkv_agents.plan_differences import POINTS, differences
from rlkv_agents.planner import Found, Search, best_plan
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.result_cache import ResultFolder, digest
from rlkv_agents.suite import Setting, policy_digest, scenario_digest, through_cache
from rlkv_agents.train import OnProgress
from rlkv_engine.errors import InputError

PLANS = "plans"
#: From every base, then from the best one, by effort.
SHORT = (Search("rollout 2", 2.0),)
_SEGMENTS = (
    Search("segments 4", 4.0, 0.25, 24, 0.1),
    Search("segments 4 without calls", 4.0, 0.25, 24, 0.1, searches_calls=False),
)
LONG: Mapping[int, Sequence[Search]] = {
    0: (),
    1: _SEGMENTS,
    2: (
        *_SEGMENTS,
        Search("rollout 8", 8.0),
        Search("96 segments 8", 8.0, 0.25, 96, 0.1),
    ),
}
#: Rough cost of a search in engine runs, for the order of jobs and the progress bar.
_RUNS = {
    "rollout 2": 150,
    "segments 4": 250,
    "segments 4 without calls": 250,
    "rollout 8": 600,
    "96 segments 8": 1500,
}


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to search, at which decision points, from which seed."""

    level: int = 1
    points: tuple[str, ...] = POINTS
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ``InputError`` for a level or a point that there is not."""
        if self.level not in LONG:
            raise InputError(
                f"--effort must be one of {', '.join(map(str, LONG))}, not {self.level}"
            )
        for point in self.points:
            if point not in POINTS:
                raise InputError(f"unknown decision point {point!r}: one of {', '.join(POINTS)}")
        if not self.points:
            raise InputError(f"--only needs a decision point: {', '.join(POINTS)}")

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The points that are searched, shape ``[4]``."""
        if self.points == POINTS:
            return EVERYWHERE
        return np.array([point in self.points for point in POINTS])


@dataclass(frozen=True, slots=True, eq=False)
class Bases:
    """A setting, the policies that its searches start from, and what plans are held against."""

    setting: Setting
    policies: Sequence[AgentPolicy]
    reference: AgentPolicy


def find_ceilings(
    wanted: Sequence[Bases],
    seeds: Sequence[int],
    effort: Effort,
    folder: Path,
    num_workers: int,
    on_progress: OnProgress,
) -> dict[str, list[dict[str, Any]]]:
    """The best plan found on every held-out trace of every setting.

    Returns:
        scenario -> for each seed ``latency_s`` (mean normalized latency, s/token), ``base`` and
        ``search`` that found it, ``found`` ("base, search" -> latency, for all that were run),
        ``num_branches``, ``num_answers``, and ``differences`` to the reference rule.
    """
    run = _Searches(seeds, effort, ResultFolder(folder / PLANS), num_workers, on_progress)
    pairs = [(bases, seed) for bases in wanted for seed in seeds]
    short = run.through(
        [(bases, seed, base) for bases, seed in pairs for base in bases.policies], SHORT, "plan"
    )
    best: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for bases, seed in pairs:
        name = bases.setting.scenario.name
        found = [short[name, seed, base.name] for base in bases.policies]
        best[name, seed] = sorted(found, key=lambda each: float(each["latency_s"]))
    if LONG[effort.level]:
        chosen = [
            (bases, seed, base)
            for bases, seed in pairs
            for base in bases.policies
            if base.name == best[bases.setting.scenario.name, seed][0]["base"]
        ]
        longer = run.through(chosen, LONG[effort.level], "plan on")
        for (name, seed, _), found_on in longer.items():
            together = [*best[name, seed], found_on]
            best[name, seed] = sorted(together, key=lambda each: float(each["latency_s"]))
    compared = run.compare(pairs, best)
    ceilings: dict[str, list[dict[str, Any]]] = {}
    for bases, seed in pairs:
        name = bases.setting.scenario.name
        everything = best[name, seed]
        ceilings.setdefault(name, []).append(
            {
                **{key: everything[0][key] for key in ("latency_s", "base", "search")},
                "num_answers": everything[0]["num_answers"],
                "num_branches": sum(each["num_branches"] for each in everything),
                "found": {k: v for each in everything for k, v in each["found"].items()},
                "differences": compared[name, seed],
            }
        )
    return ceilings


@dataclass(frozen=True, slots=True, eq=False)
class _Searches:
    # The searches of one run of find_ceilings, through its cache.
    seeds: Sequence[int]
    effort: Effort
    cache: ResultFolder
    num_workers: int
    on_progress: OnProgress

    def through(
        self,
        wanted: Sequence[tuple[Bases, int, AgentPolicy]],
        searches: Sequence[Search],
        stage: str,
    ) -> dict[tuple[str, int, str], dict[str, Any]]:
        jobs: dict[tuple[str, ...], tuple[str, Job]] = {}
        places = {}
        cost = sum(_RUNS[search.name] for search in searches)
        said = [asdict(search) for search in searches]
        scenarios = {
            id(bases): scenario_digest(bases.setting.scenario, "test") for bases, *_ in wanted
        }
        for bases, seed, base in wanted:
            scenario = bases.setting.scenario
            key = self._key(bases, seed, f"{stage} {base.name}")
            inputs = digest(
                _sources(), scenarios[id(bases)], seed, policy_digest(base, scenario),
                said, asdict(self.effort),
            )  # fmt: skip
            work = partial(_search, bases.setting, base, seed, searches, self.effort)
            jobs[key] = inputs, Job(work, cost)
            places[key] = (scenario.name, seed, base.name)
        on_done = partial(self.on_progress, stage)
        found = through_cache(jobs, self.cache, self.num_workers, on_done)
        return {places[key]: result for key, result in found.items()}

    def compare(
        self,
        pairs: Sequence[tuple[Bases, int]],
        best: Mapping[tuple[str, int], Sequence[dict[str, Any]]],
    ) -> dict[tuple[str, int], list[dict[str, Any]]]:
        jobs: dict[tuple[str, ...], tuple[str, Job]] = {}
        places = {}
        for bases, seed in pairs:
            scenario = bases.setting.scenario
            found = best[scenario.name, seed][0]
            (base,) = [each for each in bases.policies if each.name == found["base"]]
            key = self._key(bases, seed, "differences")
            reference = policy_digest(bases.reference, scenario)
            inputs = digest(_sources(), found["answers"], policy_digest(base, scenario), reference)
            work = partial(_differences, bases, base, seed, found["answers"])
            jobs[key] = inputs, Job(work, 30)
            places[key] = (scenario.name, seed)
        on_done = partial(self.on_progress, "compare")
        results = through_cache(jobs, self.cache, self.num_workers, on_done)
        return {places[key]: result["table"] for key, result in results.items()}

    def _key(self, bases: Bases, seed: int, what: str) -> tuple[str, ...]:
        said = "+".join(self.effort.points) if self.effort.points != POINTS else "all"
        effort = f"{said} {self.effort.level}"
        setting = bases.setting
        return (setting.scenario.name, what, setting.arrivals, effort, f"seed {seed}")


def pack(answers: NDArray[np.uint8]) -> str:
    """Answers as text."""
    return base64.b85encode(zlib.compress(answers.tobytes(), 9)).decode()


def unpack(text: str) -> NDArray[np.uint8]:
    """The answers that ``pack`` made text of."""
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8)


def _sources() -> str:
    # The cache knows the sources of a run; these decide what a search finds.
    modules = (lookahead, plan, planner, plan_differences)
    return digest(*(Path(str(module.__file__)).read_text() for module in modules))


def _search(
    setting: Setting, base: AgentPolicy, seed: int, searches: Sequence[Search], effort: Effort
) -> dict[str, Any]:
    trace = setting.scenario.trace(seed, "test")
    random_seed = effort.seed * 1_000_003 + seed
    found = best_plan(setting.scenario, base, trace, searches, random_seed, effort.mask)
    return _result(base, found)


def _result(base: AgentPolicy, found: Sequence[Found]) -> dict[str, Any]:
    return {
        "latency_s": found[0].latency_s,
        "base": base.name,
        "search": found[0].search,
        "found": {f"{base.name}, {each.search}": each.latency_s for each in found},
        "num_branches": sum(each.num_branches for each in found),
        "num_answers": len(found[0].plan.answers),
        "answers": pack(found[0].plan.answers),
    }


def _differences(bases: Bases, base: AgentPolicy, seed: int, answers: str) -> dict[str, Any]:
    scenario = bases.setting.scenario
    trace = scenario.trace(seed, "test")
    return {"table": differences(scenario, Plan(base, unpack(answers)), trace, bases.reference)}
