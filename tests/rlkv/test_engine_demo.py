"""``rlkv engine demo``: every policy on the real engine, the same tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlkv import engine_demo
from rlkv.asked_engine import rehearse
from rlkv.engine_demo import Demonstration, Sidecar, demonstrate
from rlkv.miniature_scenario import miniature_scenario
from rlkv.report.engine_picture import demonstration_png
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.real_engine import play_policy
from rlkv_agents.rules import make_rule
from rlkv_engine.paged.clock import WallClock
from rlkv_engine.profile import Profile
from rlkv_envs.scenario import Scenario
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.redis_url import RedisURL
from rlkv_service.schema import Reason
from rlkv_service.sidecar import sidecar as service
from tests.engine.paged.small_engine import tiny_profile
from tests.engine.paged.summing_model import summing_model
from tests.rlkv.command_line import assert_refused, run


def scenario(profile: Profile | None = None) -> Scenario:
    return miniature_scenario(
        "crossover",
        profile or tiny_profile(),
        max_context_tokens=100,
        num_sessions=6,
        num_concurrent=4.0,
        memory=0.5,
    )


def fast() -> Profile:
    """Real time passes: what costs milliseconds there is made to look as if it did."""
    from dataclasses import replace

    return replace(tiny_profile(), iteration_s=2e-4, prefill_token_s=1e-6, decode_session_s=1e-6)


def policies() -> list[AgentPolicy]:
    return [AgentPolicy(name, make_rule(name)) for name in ("house", "swap", "discard")]


def test_memory_binds_in_a_miniature() -> None:
    small = scenario()
    trace = small.trace(0, "test")
    wanted = (trace.input_tokens + trace.output_tokens).mean() * 4.0 / small.profile.block_size
    assert small.profile.num_device_blocks < wanted
    assert trace.max_context_tokens <= 100


@pytest.mark.pictures
def test_every_policy_generates_the_same_tokens() -> None:
    done: dict[str, int] = {}
    demonstration = demonstrate(
        summing_model(),  # type: ignore[arg-type]
        scenario(fast()),
        policies(),
        seed=0,
        on_progress=lambda name, finished, total: done.update({name: finished}),
    )
    record = demonstration.record()
    assert record["same_tokens"] and demonstration.other_tokens == []
    assert done == {"house": 6, "swap": 6, "discard": 6}
    assert set(record["policies"]) == set(done)
    assert record["policies"]["discard"]["blocks_out"] == 0
    assert demonstration_png(record).startswith(b"\x89PNG")


def test_other_tokens_are_noticed() -> None:
    small = scenario()
    trace, loaded = small.trace(0, "test"), summing_model()
    runs = {
        policy.name: play_policy(loaded, small, policy, trace)  # type: ignore[arg-type]
        for policy in policies()
    }
    # Copies need time, of which nothing is known where it is that of the wall.
    assert runs["discard"].blocks_out == 0 < runs["swap"].blocks_out
    runs["discard"].output_digests[3] = "other"
    demonstration = Demonstration(small, 0, "summing", "cpu", runs)
    assert not demonstration.same_tokens
    assert demonstration.other_tokens == ["discard"]


@pytest.fixture
def sidecar_url() -> Iterator[RedisURL]:
    with tempfile.TemporaryDirectory(prefix="rlkv-") as folder:
        valkey = EmbeddedValkey(Path(folder))
        try:
            with service.Sidecar(valkey.url):
                yield valkey.url
        finally:
            valkey.stop()


@pytest.mark.system
def test_a_sidecar_decides_and_the_tokens_are_the_same(sidecar_url: RedisURL) -> None:
    small = scenario(fast())
    house, *_ = policies()
    demonstration = demonstrate(
        summing_model(),  # type: ignore[arg-type]
        small,
        [house],
        seed=0,
        sidecar=Sidecar(sidecar_url, house),
    )
    record, asked = demonstration.record(), demonstration.asked
    assert asked is not None and record["same_tokens"]
    assert set(record["policies"]) == {"house", "sidecar"}
    assert asked.reasons.total() == asked.run.result.num_decisions
    # Pauses of a few milliseconds may be over before anybody can answer; most calls are in time.
    assert 0.0 < record["sidecar"]["answered_share"] <= 1.0
    assert asked.reasons >= asked.at_calls
    assert 0.0 < record["sidecar"]["answered_share_at_calls"] <= 1.0
    assert set(asked.reasons) & {Reason.POLICY, Reason.OUTSIDE, Reason.NO_POLICY}
    trace = small.trace(0, "test")
    assert record["sidecar"]["num_outcomes"] == trace.num_turns


def test_a_rehearsal_does_what_a_run_does() -> None:
    # Nothing that a run needs may be compiled in its middle, while answers become late.
    small = scenario(fast())
    reasons = rehearse(small, small.trace(0, "test"))
    assert {Reason.UNSURE, Reason.STALE} <= set(reasons)  # of a rule: in time, and too late


def test_no_clock_runs_while_something_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    class Clock(WallClock):
        def __init__(self) -> None:
            happened.append("clock")
            super().__init__()

    monkeypatch.setattr(engine_demo, "WallClock", Clock)
    monkeypatch.setattr(engine_demo, "rehearse", lambda *_: happened.append("rehearsal"))
    house, *_ = policies()
    nowhere = RedisURL.parse(f"unix://{tmp_path}/none.sock")
    demonstrate(
        summing_model(),  # type: ignore[arg-type]
        scenario(fast()),
        [house],
        seed=0,
        sidecar=Sidecar(nowhere, house),
    )
    assert happened == ["rehearsal", "clock", "clock"]


def test_policies_that_nobody_knows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = run(capsys, "engine", "demo", "--policy", "house,nope", "--out", tmp_path)
    assert_refused(result, "unknown policy 'nope': one of preserve")
    assert "sidecar" in result[2]


def test_without_an_answer_the_engine_is_served_by_its_rule(tmp_path: Path) -> None:
    small = scenario(fast())
    house, *_ = policies()
    nowhere = RedisURL.parse(f"unix://{tmp_path}/none.sock")
    demonstration = demonstrate(
        summing_model(),  # type: ignore[arg-type]
        small,
        [house],
        seed=0,
        sidecar=Sidecar(nowhere, house),
    )
    record = demonstration.record()
    assert record["same_tokens"]
    assert record["sidecar"]["answered_share"] == 0.0
    assert record["sidecar"]["num_outcomes"] == 0


def test_fewer_sessions_where_the_machine_is_slow() -> None:
    from rlkv.cli.engine_demo import LEAST_SESSIONS, MOST_SESSIONS, affordable_sessions

    assert affordable_sessions(20.0, 8.0, 7) == MOST_SESSIONS
    assert affordable_sessions(6.0, 8.0, 7) == 9  # 30 s for seven policies: 25 arrivals less 16
    assert affordable_sessions(0.5, 8.0, 7) == LEAST_SESSIONS
