"""Through the client, a real Valkey and a real sidecar: the decisions of the bundle in process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlkv_agents.bundle import load_bundle, save_bundle
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_engine import state as S
from rlkv_engine.engine import Engine
from rlkv_service.asking.ahead import AgedAnswers, AskingAhead, asked_share
from rlkv_service.asking.in_place import InPlaceAsking, run_asked
from rlkv_service.asking.in_process import InProcessPolicy
from rlkv_service.asking.outcomes import OutcomeReports
from rlkv_service.asking.stepping import step_to_end
from rlkv_service.client import Client, EngineClient
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.resp import RespConnection
from rlkv_service.schema import Reason
from rlkv_service.sidecar.sidecar import Sidecar, SidecarOptions
from tests.agents.small_scenario import random_network, small_scenario
from tests.service.asking.engines import small_engine

#: Longer than any pause of a busy machine.
PATIENT_MS = 20_000.0
SCENARIO = small_scenario(num_sessions=12)


@pytest.fixture
def policy(tmp_path: Path) -> AgentPolicy:
    # As it is read back: weights are stored as float32.
    rule = House(guard_pauses=0.5, write_through=1.0)
    save_bundle(tmp_path / "bundle", replace(random_network(), rule=rule), {})
    return load_bundle(tmp_path / "bundle").policy


@pytest.fixture
def sidecar(valkey: EmbeddedValkey, tmp_path: Path, policy: AgentPolicy) -> Iterator[Sidecar]:
    with Sidecar(valkey.url, SidecarOptions(tmp_path / "bundle")) as running:
        yield running


def verbs_inside(policy: AgentPolicy) -> list[int]:
    table = policy.table(SCENARIO)
    engine = Engine(
        SCENARIO.profile, SCENARIO.trace(0, "test"), policy.rule.params(table), table=table
    )
    answerer, verbs = InProcessPolicy(policy), []
    while engine.next_decision() is not None:
        rows = DecisionRows(["a"], np.zeros(1, np.int64), [""], engine.facts()[np.newaxis])
        verbs.append(int(answerer(rows).verb[0]))
        engine.answer(verbs[-1])
    return verbs


def test_in_place_row_by_row(valkey: EmbeddedValkey, sidecar: Sidecar, policy: AgentPolicy) -> None:
    verbs: list[int] = []
    with Client(valkey.url, engine_id="engine", deadline_ms=PATIENT_MS) as client:

        def decide(rows: DecisionRows) -> VerdictRows:
            verdicts = client.decide(rows)
            verbs.extend(verdicts.verb.tolist())
            return verdicts

        asking = InPlaceAsking(decide)
        outside = run_asked(SCENARIO, policy, SCENARIO.trace(0, "test"), asking)
    inside = small_engine(SCENARIO, policy)
    inside.run(policy.compiled())
    assert verbs == verbs_inside(policy)
    assert outside.duration_s == inside.now_s
    assert outside.num_decisions == inside.state.n[S.NUM_DECISIONS] == len(verbs)
    assert asked_share(asking.reasons) == 1.0
    assert asking.policy_version.startswith("learned@")
    assert set(verbs) == {0, 1, 2}


class InStep:
    """Waits for the answers to what was asked in the iteration before."""

    def __init__(self, client: EngineClient) -> None:
        self._client, self._under_way = client, 0

    def ask(self, rows: DecisionRows, tag: Any) -> bool:
        asked = self._client.ask(rows, tag)
        self._under_way += asked
        return asked

    def collect(self) -> list[tuple[Any, VerdictRows]]:
        arrived: list[tuple[Any, VerdictRows]] = []
        deadline_s = time.monotonic() + 30.0
        while self._under_way > len(arrived) and time.monotonic() < deadline_s:
            arrived += self._client.collect()
            time.sleep(1e-4)  # the client's thread has work to do
        self._under_way -= len(arrived)
        return arrived


def test_ahead_as_if_it_were_in_process(
    valkey: EmbeddedValkey, sidecar: Sidecar, policy: AgentPolicy
) -> None:
    near, far = small_engine(SCENARIO, policy), small_engine(SCENARIO, policy)
    step_to_end(near, AskingAhead(AgedAnswers(InProcessPolicy(policy), 1)))
    with EngineClient(valkey.url, engine_id="engine", deadline_ms=PATIENT_MS) as client:
        planner = AskingAhead(InStep(client))
        step_to_end(far, OutcomeReports(planner, client, "engine"))
    for name in ("slot", "real", "n"):
        np.testing.assert_array_equal(
            getattr(near.state, name), getattr(far.state, name), err_msg=name
        )
    assert asked_share(planner.reasons) > 0.5
    assert Reason.POLICY in planner.reasons
    # And what came of it is in the stream, once each.
    with RespConnection(valkey.url) as connection:
        written = connection.execute("XLEN", RedisKeys().outcomes)
    trace = far.trace
    assert written == client.counts.outcomes_written == trace.num_turns


def test_without_a_sidecar_the_engine_goes_on_by_its_rule(valkey: EmbeddedValkey) -> None:
    policy = random_network()
    alone, asking = small_engine(SCENARIO, policy), small_engine(SCENARIO, policy)
    alone.run(policy.compiled())
    with EngineClient(valkey.url, engine_id="engine", deadline_ms=1.0) as client:
        planner = AskingAhead(client, policy.compiled())
        step_to_end(asking, planner)
    assert asking.now_s == alone.now_s
    assert asked_share(planner.reasons) == 0.0
    assert planner.reasons.total() == alone.state.n[S.NUM_DECISIONS]
