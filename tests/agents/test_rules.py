from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from rlkv_agents.base_rule import Rule
from rlkv_agents.evaluate import run_policy
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import RULES, LazySwap, Ttl, constants_of, make_rule
from rlkv_agents.tune import grid_of
from rlkv_engine import rule as R
from rlkv_engine.config import EngineConfig
from rlkv_engine.errors import InputError
from rlkv_engine.estimates import BY_ELAPSED, BY_TOOL, BY_TRUTH, PauseTable, fit_pause_table
from rlkv_engine.state import DISCARD, PRESERVE, SWAP, SWAP_NOW
from rlkv_engine.victim_order import NUM_ORDER_TERMS
from rlkv_envs.metrics import RunResult
from tests.agents.small_scenario import small_scenario
from tests.engine.reference_session import Turn
from tests.engine.reference_worlds import make_trace
from tests.envs.small_machine import small_profile

SCENARIO = small_scenario()
TRACE = SCENARIO.trace(0, "test")
#: As many blocks as all sessions could ever hold, on both tiers.
ROOMY = replace(
    SCENARIO,
    profile=replace(small_profile(), num_device_blocks=100_000, num_host_blocks=100_000),
)

SLACK = 0.003
REMAINING, ELAPSED, IDLENESS = R.ORDER_REMAINING, R.ORDER_ELAPSED, R.ORDER_IDLENESS

#: ORDER, ESTIMATE, verbs at CALL, NEW, RESUME and GROW, SWAP_RATIO, guard in mean pauses, EAGER,
#: SLACK_RATIO.
VECTORS: dict[str, list[float]] = {
    "preserve": [ELAPSED, BY_TOOL, PRESERVE, PRESERVE, DISCARD, DISCARD, 0, 0, 0, SLACK],
    "swap": [ELAPSED, BY_TOOL, SWAP_NOW, SWAP, SWAP, SWAP, 0, 0, 0, SLACK],
    "discard": [ELAPSED, BY_TOOL, DISCARD, DISCARD, DISCARD, DISCARD, 0, 0, 0, SLACK],
    "lru": [ELAPSED, BY_TOOL, PRESERVE, DISCARD, DISCARD, DISCARD, 0, 0, 0, SLACK],
    "lru-swap": [ELAPSED, BY_TOOL, PRESERVE, SWAP, SWAP, SWAP, 0, 0, 0, SLACK],
    "lazy": [REMAINING, BY_TOOL, PRESERVE, DISCARD, DISCARD, DISCARD, 0, 0, 0, SLACK],
    "lazy-swap": [REMAINING, BY_TOOL, PRESERVE, SWAP, SWAP, SWAP, 0, 0, 0, SLACK],
    "two-tier-lru": [ELAPSED, BY_TOOL, SWAP, SWAP, SWAP, SWAP, 0, 0, 0, SLACK],
    "min-waste": [REMAINING, BY_TOOL, PRESERVE, SWAP, SWAP, SWAP, 0, 0, 1, SLACK],
    "min-waste-elapsed": [REMAINING, BY_ELAPSED, PRESERVE, SWAP, SWAP, SWAP, 0, 0, 1, SLACK],
    "min-waste-true": [REMAINING, BY_TRUTH, PRESERVE, SWAP, SWAP, SWAP, 0, 0, 1, SLACK],
    "ttl": [ELAPSED, BY_TOOL, R.CALL_LEASE, PRESERVE, DISCARD, DISCARD, 0, 0, 0, SLACK],
    "mori": [IDLENESS, BY_TOOL, SWAP, SWAP, SWAP, SWAP, 0, 0, 0, SLACK],
    "house": [REMAINING, BY_TOOL, PRESERVE, SWAP, R.AUTO, R.AUTO, 4, 1, 0, SLACK],
    "clairvoyant": [REMAINING, BY_TRUTH, PRESERVE, SWAP, R.AUTO, R.AUTO, 4, 1, 0, SLACK],
}


def run(rule: Rule, scenario: object = SCENARIO, config: EngineConfig | None = None) -> RunResult:
    assert isinstance(scenario, type(SCENARIO))
    return run_policy(scenario, AgentPolicy(rule.name, rule), TRACE, config)


def test_every_rule_has_a_vector_here() -> None:
    assert VECTORS.keys() == RULES.keys()


@pytest.mark.parametrize("name", RULES)
def test_the_vector_of(name: str) -> None:
    expected = np.zeros(R.RULE_SIZE)  # no order of victims is learnt yet
    expected[: len(VECTORS[name])] = VECTORS[name]
    expected[R.GUARD_S] *= SCENARIO.table.mean_pause_s
    np.testing.assert_array_equal(make_rule(name).params(SCENARIO.table), expected)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_a_name_a_source_and_a_reason(name: str) -> None:
    rule = RULES[name]
    assert rule.name == name
    assert rule.source
    assert rule.__doc__ and not rule.__doc__.startswith(f"{rule.__name__}(")
    assert rule.sees_future == (rule in {RULES["min-waste-true"], RULES["clairvoyant"]})
    assert not set(rule.grid) - set(rule.__dataclass_fields__)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_serves_everybody(name: str) -> None:
    for constants in [{}, grid_of(name)[0], grid_of(name)[-1]]:
        result = run(make_rule(name, constants))
        assert result.sessions_finished == TRACE.num_sessions
        assert result.normalized_latency_s.count == TRACE.num_sessions
        assert result.resume_latency_s.count == TRACE.num_turns - TRACE.num_sessions
        assert result.mean_latency_s > 0 and result.resume_latency_s.mean_s > 0
        assert 0 <= result.recompute_ratio < 1
        assert 0 <= result.waste <= 1 and 0 < result.busy_ratio <= 1


@pytest.mark.parametrize("name", RULES)
def test_every_rule_does_without_a_host_tier(name: str) -> None:
    none = small_scenario(num_host_blocks=0)
    for constants in [{}, grid_of(name)[0], grid_of(name)[-1]]:
        result = run(make_rule(name, constants), none)
        assert result.sessions_finished == none.num_sessions
        assert np.isfinite(result.mean_latency_s)


def test_rules_are_told_apart() -> None:
    rules = {name: make_rule(name) for name in RULES}
    rules["ttl"] = Ttl(memory_price=2.0)  # where memory is cheap its leases outlast the pauses
    latencies = {name: run(rule).mean_latency_s for name, rule in rules.items()}
    assert len(set(latencies.values())) == len(RULES)


@pytest.mark.parametrize("name", RULES)
def test_without_pressure_nothing_is_recomputed(name: str) -> None:
    result = run(make_rule(name), ROOMY)
    # The rule that frees what it has copied gives up the last block, which is not full.
    assert 0.0 < result.recompute_ratio < 0.05 if name == "swap" else not result.recompute_ratio
    assert result.num_preemptions == 0


def test_discarding_costs_recompute_where_nothing_can_be_used_again() -> None:
    forgetful = EngineConfig(reuse_discarded=False)
    assert run(make_rule("preserve"), ROOMY, forgetful).recompute_ratio == 0.0
    fast_link = replace(ROOMY, profile=ROOMY.profile.scaled(link=1000.0))
    assert run(make_rule("swap"), fast_link, forgetful).recompute_ratio < 0.05  # partial blocks
    assert run(make_rule("discard"), ROOMY, forgetful).recompute_ratio > 0.3


def test_what_a_rule_gives_up_paused_sessions_do_not_hold() -> None:
    assert run(make_rule("discard"), ROOMY).waste == 0.0
    assert run(make_rule("preserve"), ROOMY).waste > 0.0
    assert run(make_rule("preserve")).waste > run(make_rule("lru")).waste


def test_preserve_makes_new_sessions_wait() -> None:
    assert (
        run(make_rule("preserve")).first_token_s.mean_s
        > run(make_rule("discard")).first_token_s.mean_s
    )


def test_the_guard_keeps_those_who_are_back_soon() -> None:
    table = SCENARIO.table
    assert make_rule("lazy-swap", {"guard_pauses": 2.0}).params(table)[R.GUARD_S] == pytest.approx(
        2 * table.mean_pause_s
    )
    open_door, guarded = (run(LazySwap(guard)).num_decisions for guard in (0.0, 4.0))
    assert guarded != open_door


def test_the_constants_of_the_house_rule() -> None:
    params = House(write_through=1.0, new_swaps=0.0, swap_ratio=0.0).params(SCENARIO.table)
    assert params[R.CALL_VERB] == SWAP
    assert params[R.NEW_VERB] == DISCARD
    assert params[R.SWAP_RATIO] == 0.0


def test_the_constants_of_a_learned_order() -> None:
    weights = np.arange(1.0, NUM_ORDER_TERMS + 1.0)
    house = House(guard_pauses=2.0).with_order(weights)
    params = house.params(SCENARIO.table)
    assert params[R.ORDER] == R.ORDER_WEIGHED
    np.testing.assert_array_equal(params[R.ORDER_WEIGHTS :], weights)
    assert house.guard_pauses == 2.0 and house.order_dirty == 8.0
    # Weights are constants like others, and named only where an order was learnt.
    assert make_rule("house", constants_of(house)) == house
    assert not any(name.startswith("order_") for name in constants_of(House()))
    # What the clipped surrogate starts at forgets the order and keeps who may take.
    assert house.discarding() == House(guard_pauses=2.0, swap_ratio=0.0)


def two_tools() -> PauseTable:
    """Of 100 calls each: "steady" takes 1 s; "wild" takes 0.5 s nine times of ten, else 50 s."""
    pauses = [(0, 1.0)] * 100 + [(1, 0.5)] * 90 + [(1, 50.0)] * 10
    trace = make_trace([[Turn(4, 0, 1, s) for _, s in pauses] + [Turn(4, 0, 1, np.nan)]], [0.0])
    tool = np.array([t for t, _ in pauses] + [-1])
    return fit_pause_table(replace(trace, tools=("steady", "wild"), tool=tool))


def test_leases_weigh_the_chance_of_use_against_the_memory_held() -> None:
    table = two_tools()
    assert table.mean_pause_s == pytest.approx((100 + 45 + 500) / 200)

    def leases(price: float) -> list[float]:
        steady, wild, _ = Ttl(price).leases(small_profile(), table)
        return [float(steady), float(wild)]

    # Memory for nothing: both wait to the end. 50 s for the last tenth is what goes first.
    assert leases(1e-6) == [1.0, 50.0]
    assert leases(0.2) == [1.0, 0.5]
    # A second of memory costs more than the use: 1 s at 1 / 3.225 of a mean pause.
    assert leases(3.3)[0] == 0.0
    assert leases(1e6) == [0.0, 0.0]


def test_leases_are_longer_where_memory_is_cheaper() -> None:
    table = SCENARIO.table
    prices = sorted(Ttl.grid["memory_price"])
    leases = [Ttl(price).leases(SCENARIO.profile, table) for price in prices]
    assert leases[0].shape == (len(table.tools) + 1,)
    for cheap, dear in pairwise(leases):
        assert (cheap >= dear).all()
    assert (leases[0] > leases[-1]).any()


def test_a_lease_is_kept_and_no_longer() -> None:
    cheap, dear = (run(Ttl(price), ROOMY) for price in (1e-6, 1e6))
    assert dear.waste < 1e-9 < cheap.waste <= run(make_rule("preserve"), ROOMY).waste
    assert make_rule("lru").leases(SCENARIO.profile, SCENARIO.table) is None


@pytest.mark.parametrize(
    ("name", "constants", "named"),
    [
        ("fifo", {}, "unknown rule 'fifo': one of preserve, swap, discard"),
        ("lru", {"guard_pauses": 1.0}, "rule 'lru'"),
        ("house", {"guard": 1.0}, "rule 'house'.*guard"),
    ],
)
def test_what_is_not_a_rule(name: str, constants: dict[str, float], named: str) -> None:
    with pytest.raises(InputError, match=named):
        make_rule(name, constants)
