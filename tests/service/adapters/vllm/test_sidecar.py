from __future__ import annotations

import math

import pytest

from rlkv_engine import facts as F
from rlkv_service.client.engine_client import EngineClient
from rlkv_service.columns import DecisionRows
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.schema import Outcome, Point, SessionEnd, Verb, decode
from tests.service.adapters.vllm.fake_engine import BLOCK, FakeEngine
from tests.service.adapters.vllm.scripted_client import VERSION, ScriptedClient
from tests.service.adapters.vllm.test_keeper import next_turn, prompt


def engine_with(verb: Verb, num_host_blocks: int = 64) -> tuple[FakeEngine, ScriptedClient]:
    client = ScriptedClient(lambda rows, i: verb)
    return FakeEngine(64, num_host_blocks, client, policy="sidecar"), client


def test_a_call_is_described() -> None:
    engine, client = engine_with(Verb.PRESERVE)
    engine.ask(prompt(1, 6.5), 3, session="a", hint={"tool": "search", "turn": 4})
    ((rows, _),) = client.asked
    assert rows.sessions == ["a"] and rows.tools == ["search"] and rows.turns.tolist() == [4]
    facts = dict(zip((fact.name for fact in F.FACTS), rows.facts[0].tolist(), strict=True))
    assert facts["block_size"] == BLOCK and facts["num_device_blocks"] == 64
    assert facts["num_host_blocks"] == 64 and facts["host_free_blocks"] == 64
    assert facts["point"] == Point.CALL and facts["need_blocks"] == facts["short_blocks"] == 0
    assert facts["context_tokens"] == 29 and facts["device_blocks"] == 7
    assert facts["dirty_blocks"] == 7 and facts["host_blocks"] == 0 and facts["num_turns"] == 5
    assert facts["num_paused"] == 1 and facts["elapsed_s"] == 0
    # The decider has better estimates than an engine.
    assert math.isnan(facts["remaining_s"]) and math.isnan(facts["mean_pause_s"])


@pytest.mark.parametrize("verb", Verb)
def test_until_the_answer_comes_the_rule_decides(verb: Verb) -> None:
    engine, client = engine_with(verb)
    engine.ask(prompt(1, 6.5), session="a")
    counts = engine.keeper.counts()
    assert counts["decisions:SWAP:RULE"] == 1 and counts["stored_blocks"] == 6
    client.answer()
    engine.ask([1], hint={"ends": True})
    assert engine.keeper.counts()[f"decisions:{verb.name}:POLICY"] == 1
    gauges = engine.keeper.gauges()
    assert gauges["preserved_blocks"] == (6 if verb == Verb.PRESERVE else 0)
    assert gauges["host_blocks"] == (0 if verb == Verb.DISCARD else 6)
    engine.check()


def test_a_late_answer_changes_nothing() -> None:
    engine, client = engine_with(Verb.DISCARD)
    first = engine.ask(prompt(1, 6.5), session="a")
    second = next_turn(engine, first)
    asked = client.asked
    client.asked = asked[:1]
    client.answer()  # about the first pause, which is over
    client.asked = asked[1:]
    third = next_turn(engine, second)
    assert engine.keeper.counts()["stale_answers"] == 1
    assert sum(third.found_tokens) == (second.num_tokens - 1) // BLOCK * BLOCK
    client.answer()
    engine.ask(third.tokens, session="a", hint={"ends": True})
    client.answer()  # about a session that has ended
    engine.ask([1], hint={"ends": True})
    engine.check()


def test_a_dead_sidecar_is_counted() -> None:
    engine, client = engine_with(Verb.PRESERVE)
    client.is_dead = True
    first = engine.ask(prompt(1, 6.5), session="a")
    assert sum(next_turn(engine, first).found_tokens) == 6 * BLOCK
    counts = engine.keeper.counts()
    assert counts["fallback"] == counts["asked:BREAKER_OPEN"] == 2
    assert "asked_calls" not in counts


def test_short_memory_is_asked_about_ahead() -> None:
    engine, client = engine_with(Verb.PRESERVE, num_host_blocks=0)
    for i in range(6):
        engine.ask(prompt(i, 9.5), session=f"s{i}")
    engine.ask(prompt(8, 2), 2, hint={"ends": True})
    revisits = [rows for rows, _ in client.asked if rows.facts[0, F.POINT] != Point.CALL]
    assert {session for rows in revisits for session in rows.sessions} == {
        f"s{i}" for i in range(6)
    }
    for rows in revisits:
        ranks = [float(rank) for rank in range(len(rows) // 3) for _ in range(3)]
        assert rows.facts[:, F.RANK].tolist() == ranks
        assert rows.facts[:3, F.POINT].tolist() == [Point.NEW, Point.RESUME, Point.GROW]
        assert (rows.facts[:, F.SHORT_BLOCKS] >= 1).all()
    assert engine.keeper.counts()["asked_revisits"] == sum(map(len, revisits)) // 3


def test_answers_about_a_revisit_are_used_in_their_order() -> None:
    taken = "s4"

    def verb_of(rows: DecisionRows, i: int) -> Verb:
        if rows.facts[i, F.POINT] == Point.CALL:
            return Verb.PRESERVE
        return Verb.DISCARD if rows.sessions[i] == taken else Verb.PRESERVE

    client = ScriptedClient(verb_of)
    engine = FakeEngine(64, 0, client, policy="sidecar")
    for i in range(6):
        engine.ask(prompt(i, 9.5), session=f"s{i}")
    client.answer()
    engine.ask(prompt(8, 2), 2, hint={"ends": True})
    client.answer()
    engine.ask(prompt(9, 18), hint={"ends": True})
    holds = engine.keeper.state.holds
    assert taken not in holds and all(f"s{i}" in holds for i in range(6) if i != 4)
    # Who needs more than that gets it from those who were to be kept.
    engine.ask(prompt(10, 60), hint={"ends": True})
    assert holds.num_blocks <= 4
    engine.check()


def test_a_revisit_that_swaps_copies_before_it_is_needed() -> None:
    def verb_of(rows: DecisionRows, i: int) -> Verb:
        return Verb.PRESERVE if rows.facts[i, F.POINT] == Point.CALL else Verb.SWAP

    client = ScriptedClient(verb_of)
    engine = FakeEngine(64, 100, client, policy="sidecar")
    hint = {"verb": "preserve", "lease_s": 600}
    firsts = [engine.ask(prompt(i, 9.5), session=f"s{i}", hint=hint) for i in range(6)]
    engine.ask(prompt(8, 2), 2, hint={"ends": True})
    client.answer()
    engine.ask(prompt(8, 2), 2, hint={"ends": True})
    gauges = engine.keeper.gauges()
    assert gauges["preserved_blocks"] == gauges["host_blocks"] == 54
    engine.ask(prompt(9, 60), hint={"ends": True})
    again = next_turn(engine, firsts[5], "s5")
    assert sum(again.found_tokens) == 9 * BLOCK and again.found_tokens[1]
    engine.check()


def test_outcomes_say_what_came_of_it() -> None:
    engine, client = engine_with(Verb.SWAP)
    first = engine.ask(prompt(1, 6.5), 3, session="a", hint={"tool": "search"})
    client.answer()
    engine.now_s += 2.0
    second = next_turn(engine, first)
    (outcome,) = client.outcomes
    assert (outcome.session, outcome.turn, outcome.tool) == ("a", 0, "search")
    assert outcome.pause_s == pytest.approx(2.0, abs=0.05)
    assert (outcome.context_tokens, outcome.input_tokens, outcome.output_tokens) == (29, 26, 3)
    assert outcome.new_tokens == second.num_prompt_tokens - 29
    assert outcome.reused_device_tokens == 28 and outcome.recomputed_tokens == 1
    assert outcome.verb == Verb.SWAP and outcome.delay_s > 0
    assert outcome.policy_version in (VERSION, "local-rule")
    engine.ask(second.tokens, 2, session="a", hint={"ends": True})
    (end,) = client.ends
    assert (end.session, end.turn, end.output_tokens) == ("a", 2, 2)


def test_an_aborted_return_has_no_outcome() -> None:
    engine, client = engine_with(Verb.PRESERVE)
    first = engine.ask(prompt(1, 6.5), session="a")
    engine.abort(engine.add([*first.tokens, 1], session="a"))
    engine.ask([1], hint={"ends": True})
    assert not client.outcomes


def test_through_a_real_server(valkey: EmbeddedValkey) -> None:
    """Outcomes and ends reach the stream, whoever decides."""
    from rlkv_service.redis_keys import RedisKeys
    from rlkv_service.resp import RespConnection

    with EngineClient(valkey.url, engine_id="engine") as client:
        engine = FakeEngine(64, 64, client, policy="sidecar")
        first = engine.ask(prompt(1, 6.5), session="a")
        engine.ask([*first.tokens, 1], session="a", hint={"ends": True})
    with RespConnection(valkey.url) as connection:
        entries = connection.execute("XRANGE", RedisKeys("default").outcomes, "-", "+")
    payloads = [
        fields[fields.index(b"m") + 1] if b"m" in fields else fields[1] for _, fields in entries
    ]
    kinds = [Outcome if b"outcome" in payload else SessionEnd for payload in payloads]
    assert kinds == [Outcome, SessionEnd]
    assert decode(payloads[0], Outcome).session == "a"
