"""The real engine, which goes from one trace to the next and asks for as long as it is stepped.

It has everything but a language model: scheduler, KV blocks in two tiers, copies, and a model whose
next token is wrong as soon as one block of its context is.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Self

from rlkv.miniature_scenario import miniature_scenario
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.real_engine import play_policy
from rlkv_agents.rules import make_rule
from rlkv_engine import state as S
from rlkv_engine.paged.trace_player import TracePlayer
from rlkv_engine.trace import Trace
from rlkv_service.asking.ahead import AgedAnswers, AskingAhead
from rlkv_service.asking.in_process import InProcessPolicy
from rlkv_service.asking.outcomes import OutcomeReports
from rlkv_service.client import BreakerSettings, Counts, EngineClient
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.redis_url import RedisURL
from rlkv_service.schema import Reason
from tests.engine.paged.small_engine import tiny_profile
from tests.engine.paged.summing_model import summing_model
from tests.rlkv.faults.bundles import Bundles
from tests.service.client.asking import wait_until

SCENARIO = miniature_scenario(
    "crossover", tiny_profile(), max_context_tokens=100, num_sessions=8, num_concurrent=4.0,
    memory=0.5,
)  # fmt: skip
HOUSE = AgentPolicy("house", make_rule("house")).on(SCENARIO)
#: Traces that are played by turns.
NUM_TRACES = 3
#: An iteration takes this much beyond its work: the model's time, which it has not.
ITERATION_S = 0.001
#: Longer than an answer takes, and not as long as a fault lasts.
DEADLINE_MS = 60.0
#: Nothing but a lost request takes so long, on a busy machine either.
PATIENT_MS = 20_000.0
_MAX_UNDER_WAY = 4096
QUICK = BreakerSettings(first_probe_s=0.01, max_probe_s=0.1, seed=0)
PATIENCE_S = 30.0


@cache
def trace_of(number: int) -> Trace:
    return SCENARIO.trace(number % NUM_TRACES, "test")


@cache
def tokens_without_a_sidecar(number: int) -> dict[int, str]:
    """Digests of what each session generates where nobody is asked."""
    loaded: Any = summing_model()
    return play_policy(loaded, SCENARIO, HOUSE, trace_of(number)).output_digests


@cache
def warm_up() -> None:
    """A trace asked for in this process: what is compiled at first is compiled."""
    planner = AskingAhead(AgedAnswers(InProcessPolicy(HOUSE), 1))
    loaded: Any = summing_model()
    play_policy(loaded, SCENARIO, HOUSE, trace_of(0), planner=planner)


class CheckedAsker:
    """Asks through a client, and checks every answer that arrives."""

    def __init__(self, client: EngineClient, bundles: Bundles) -> None:
        self._client, self._bundles = client, bundles
        self._asked: dict[int, tuple[DecisionRows, Any]] = {}
        self._first = 0  # tags before this one are of a trace that has ended
        self._next = 0
        self.versions: list[str] = []  # of the policies that answered, in order

    def ask(self, rows: DecisionRows, tag: Any) -> bool:
        self._asked[self._next] = (rows, tag)
        self._next += 1
        return self._client.ask(rows, self._next - 1)

    def collect(self) -> Sequence[tuple[Any, VerdictRows]]:
        arrived = []
        for number, verdicts in self._client.collect():
            rows, tag = self._asked.pop(number)
            self._bundles.check(rows, verdicts)
            if verdicts.policy_version not in self.versions[-1:]:
                self.versions.append(verdicts.policy_version)
            if number >= self._first:
                arrived.append((tag, verdicts))
        return arrived

    @property
    def num_requests(self) -> int:
        """Asked so far."""
        return self._next

    def all_answered(self, first: int, end: int) -> bool:
        """Whether these requests are, by their numbers."""
        return not any(number in self._asked for number in range(first, end))

    def new_trace(self) -> None:
        """What was asked so far is of no use any more."""
        self._first = self._next


class EngineLoop:
    """An engine with its client; whatever is raised in it is raised by ``step``."""

    def __init__(
        self, url: RedisURL, engine_id: str, bundles: Bundles, deadline_ms: float = DEADLINE_MS
    ) -> None:
        warm_up()
        self.engine_id = engine_id
        self.client = EngineClient(
            url, engine_id=engine_id, deadline_ms=deadline_ms, breaker=QUICK,
            max_under_way=_MAX_UNDER_WAY,
        )  # fmt: skip
        self.asker = CheckedAsker(self.client, bundles)
        self.decided: Counter[Reason] = Counter()  # by traces that have ended
        self.num_reported = 0  # outcomes and ends of these
        self._num_traces = 0
        self._step_s: list[float] = []
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._player.close()
        self.client.close()

    @property
    def counts(self) -> Counts:
        return self.client.counts

    def step(self) -> None:
        """An iteration; with the last one of a trace the next trace begins."""
        began_s = time.perf_counter()
        plan = self._player.step()
        self._step_s.append(time.perf_counter() - began_s)
        if plan is None:
            self._end_trace()
            self._begin()
        time.sleep(ITERATION_S)

    def finish(self) -> None:
        """To the end of the trace as fast as it goes, and until its outcomes are written."""
        while self._player.step() is not None:
            pass
        self._end_trace()
        self._begin()
        wait_until(
            lambda: self.counts.outcomes_written == self.num_reported, "outcomes are in the log"
        )
        assert self.counts.outcomes_waiting == self.counts.outcomes_dropped == 0

    def step_us(self) -> float:
        """Median of what an iteration took since the last call, microseconds."""
        taken_s, self._step_s = self._step_s, []
        return 1e6 * statistics.median(taken_s)

    def _begin(self) -> None:
        number = self._num_traces
        # Outcomes count once for each engine, session and turn.
        name = f"{self.engine_id}-{number}"
        self.asker.new_trace()
        self._planner = AskingAhead(self.asker)
        self._reports = OutcomeReports(self._planner, self.client, name)
        loaded: Any = summing_model()
        self._player = TracePlayer(
            loaded, SCENARIO.profile, trace_of(number), HOUSE.rule.params(SCENARIO.table),
            SCENARIO.table, planner=self._reports,
            lease_s=HOUSE.rule.leases(SCENARIO.profile, SCENARIO.table),
        )  # fmt: skip

    def _end_trace(self) -> None:
        player, number = self._player, self._num_traces
        self._reports.follow(player.engine)
        trace = trace_of(number)
        assert player.engine.live_state.n[S.NUM_FINISHED] == trace.num_sessions
        player.executor.check_integrity()
        assert player.output_digests() == tokens_without_a_sidecar(number % NUM_TRACES)
        player.close()
        self.decided += self._planner.reasons
        self.num_reported += trace.num_turns  # a pause or an end after each
        self._num_traces += 1


def until(engines: Sequence[EngineLoop], holds: Callable[[], bool], what: str) -> None:
    """Steps engines by turns until something holds."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        told = [engine.counts for engine in engines]
        assert time.monotonic() < deadline_s, f"in vain: {what}, {told}"
        for engine in engines:
            engine.step()


def until_answered(engines: Sequence[EngineLoop], num: int, what: str = "answers") -> None:
    """Steps engines until each of them has so many more decisions from a sidecar."""
    wanted = [engine.counts.answered + num for engine in engines]
    until(
        engines,
        lambda: all(e.counts.answered >= n for e, n in zip(engines, wanted, strict=True)),
        what,
    )


def until_local(engines: Sequence[EngineLoop], num: int) -> None:
    """Steps engines until each of them has so many more decisions that nobody answered."""
    wanted = [engine.counts.local + num for engine in engines]
    until(
        engines,
        lambda: all(e.counts.local >= n for e, n in zip(engines, wanted, strict=True)),
        "the rule answers",
    )
