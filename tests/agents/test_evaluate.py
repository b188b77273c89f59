from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest

from rlkv.experiment import evaluation_record
from rlkv.report.record import check_record
from rlkv.report.schema import PolicyFigures
from rlkv_agents.evaluate import (
    bootstrap_interval,
    evaluate,
    means,
    paired_ratio,
    run_policy,
    summarize,
)
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import RULES, make_rule
from rlkv_engine.engine import Engine
from rlkv_engine.errors import InputError
from rlkv_engine.latency import GAP_NAMES
from rlkv_engine.loop import RULE_POLICY
from rlkv_envs.metrics import measure
from rlkv_envs.scenario import closed_loop
from tests.agents.small_scenario import random_network, small_scenario
from tests.engine.hand_machine import MACHINE, decode_s, prefill_s
from tests.engine.reference_session import Turn
from tests.engine.reference_worlds import make_trace

SCENARIO = small_scenario()
TABLE = SCENARIO.table
SEEDS = [0, 1, 2]


def rules(*names: str) -> list[AgentPolicy]:
    return [AgentPolicy(name, make_rule(name)) for name in names]


def test_every_policy_meets_the_same_traces() -> None:
    met: dict[str, list[int]] = {}

    def watched(scenario, policy, trace, config=None):  # type: ignore[no-untyped-def]
        met.setdefault(policy.name, []).append(id(trace))
        kept.append(trace)
        return run_policy(scenario, policy, trace, config)

    kept: list[object] = []
    evaluate(SCENARIO, rules("lru", "house", "ttl"), SEEDS, run=watched)
    assert met["lru"] == met["house"] == met["ttl"]
    assert len(set(met["lru"])) == len(SEEDS)


def test_two_policies_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="two policies are called 'lru'"):
        evaluate(SCENARIO, rules("lru", "house", "lru"), SEEDS)


def test_results_do_not_depend_on_who_else_runs() -> None:
    together = evaluate(SCENARIO, [*rules(*RULES), random_network()], SEEDS)
    for name in ("min-waste", "ttl", "house", "lru"):
        assert together[name] == evaluate(SCENARIO, rules(name), SEEDS)[name]
    backwards = evaluate(SCENARIO, [random_network(), *rules(*reversed(RULES))], SEEDS)
    assert together == backwards


def test_a_learner_beside_them_changes_nothing_for_the_rules() -> None:
    names = [name for name in RULES if not RULES[name].sees_future]
    alone = evaluation_record(SCENARIO, rules(*names), learned=None, seeds=SEEDS)
    policies = [*rules(*names), random_network()]
    beside = evaluation_record(SCENARIO, policies, learned="learned", seeds=SEEDS)
    assert alone["best_rule"] == beside["best_rule"]
    for name in names:
        assert alone["policies"][name] == beside["policies"][name]
    assert beside["policies"]["learned"]["source"] == "learned"


def test_a_run_is_the_same_every_time_and_another_seed_is_another() -> None:
    (first,), (again,) = (evaluate(SCENARIO, [random_network()], [5]).values() for _ in range(2))
    assert first == again
    (other,) = evaluate(SCENARIO, [random_network()], [6]).values()
    assert first[0].mean_latency_s != other[0].mean_latency_s


def test_every_run_is_counted() -> None:
    count = 0

    def on_run() -> None:
        nonlocal count
        count += 1

    evaluate(SCENARIO, rules("lru", "house"), SEEDS, on_run=on_run)
    assert count == 6


def test_metrics_by_hand() -> None:
    # Two turns around a pause of 5 s, alone on the machine.
    sessions = [[Turn(8, 0, 2, 5.0), Turn(12, 9, 1, math.nan)]]
    engine = Engine(MACHINE, make_trace(sessions, [3.0]), make_rule("preserve").params(TABLE))
    engine.run(RULE_POLICY)
    result = measure(engine.state)
    first_s, decode, second_s = prefill_s(8), decode_s(8), prefill_s(3, 9)
    assert result.mean_latency_s == pytest.approx((first_s + decode + second_s) / 3)
    assert result.first_token_s.mean_s == pytest.approx(first_s)
    by_gap = dict(zip(GAP_NAMES, result.resume_latency_by_gap_s, strict=True))
    assert {name: h.mean_s for name, h in by_gap.items() if h.count} == {
        "1-10 s": pytest.approx(second_s)
    }
    assert [h.count for h in (result.normalized_latency_s, result.first_token_s)] == [1, 1]
    assert result.duration_s == pytest.approx(3.0 + first_s + decode + 5.0 + second_s)
    assert result.busy_ratio == pytest.approx((first_s + decode + second_s) / result.duration_s)
    assert result.waste == pytest.approx(3 * 5.0 / (100 * result.duration_s))
    assert (result.recompute_ratio, result.sessions_finished) == (0.0, 1)
    # Three with work, and one each to the arrival and to the return.
    assert (result.num_iterations, result.num_decisions, result.num_preemptions) == (5, 1, 0)


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_holds_the_mean_and_shrinks(seed: int) -> None:
    values = np.random.default_rng(seed).gamma(2.0, 1.0, 1024)
    widths = []
    for num in (16, 128, 1024):
        low, high = bootstrap_interval(values[:num])
        assert low < values[:num].mean() < high
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]
    # Four standard errors wide, about.
    assert widths[2] == pytest.approx(3.92 * values.std() / math.sqrt(1024), rel=0.15)
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_one_seed_has_an_interval_without_width() -> None:
    assert bootstrap_interval(np.array([0.25])) == (0.25, 0.25)


def test_pairing_takes_out_what_the_traces_have_in_common() -> None:
    runs = evaluate(SCENARIO, rules("lru", "house"), list(range(8)))
    ratio, (low, high) = paired_ratio(runs["house"], runs["lru"])
    assert ratio == pytest.approx(means(runs["house"]).mean() / means(runs["lru"]).mean())
    assert low <= ratio <= high
    assert paired_ratio(runs["lru"], runs["lru"]) == (1.0, (1.0, 1.0))
    unpaired = [bootstrap_interval(means(runs[name])) for name in ("house", "lru")]
    assert high - low < unpaired[0][1] / unpaired[1][0] - unpaired[0][0] / unpaired[1][1]


def test_a_summary_has_the_schema_of_a_record() -> None:
    runs = evaluate(SCENARIO, rules("house"), SEEDS)["house"]
    figures = json.loads(json.dumps(summarize(runs)))
    msgspec.convert(figures, PolicyFigures)
    latency = figures["normalized_latency_s"]
    assert latency["mean"] == pytest.approx(np.mean(figures["mean_by_seed_s"]))
    assert latency["p50"] <= latency["p90"] <= latency["p99"]
    assert latency["ci95"][0] <= latency["mean"] <= latency["ci95"][1]
    assert set(figures["resume_latency_by_gap_s"]) <= set(GAP_NAMES)
    assert figures["sessions_finished"] == len(SEEDS) * SCENARIO.num_sessions
    num_resumes = sum(run.resume_latency_s.count for run in runs)
    assert num_resumes == sum(
        SCENARIO.trace(seed, "test").num_turns - SCENARIO.num_sessions for seed in SEEDS
    )


def test_sessions_that_never_pause_can_be_summarized() -> None:
    trace = make_trace([[Turn(8, 0, 2, math.nan)]] * 3, [0.0] * 3)
    engine = Engine(MACHINE, trace, make_rule("lru").params(TABLE))
    engine.run(RULE_POLICY)
    figures = summarize([measure(engine.state)])
    assert figures["resume_latency_by_gap_s"] == {}
    json.dumps(figures, allow_nan=False)


def test_a_record_can_be_read_and_says_against_whom() -> None:
    policies = [*rules("lru", "clairvoyant", "house"), random_network()]
    record = evaluation_record(SCENARIO, policies, learned="learned", seeds=SEEDS)
    check_record(json.loads(json.dumps(record, allow_nan=False)), "record.json")
    assert (record["split"], record["seeds"]) == ("test", SEEDS)
    assert record["best_rule"] in ("lru", "house")  # the clairvoyant is no competitor
    ratios = {n: p["ratio_to_best_rule"]["ratio"] for n, p in record["policies"].items()}
    assert ratios[record["best_rule"]] == 1.0
    assert min(ratios["lru"], ratios["house"]) == 1.0
    assert record["policies"]["house"]["constants"] == {
        "guard_pauses": 1.0, "swap_ratio": 4.0, "write_through": 0.0, "new_swaps": 1.0,
        "slack_ratio": 0.003,
    }  # fmt: skip
    assert record["policies"]["clairvoyant"]["sees_future"]


def test_a_record_needs_seeds_and_a_rule() -> None:
    with pytest.raises(InputError, match="at least one seed"):
        evaluation_record(SCENARIO, rules("lru"), learned=None, seeds=[])
    for policies in ([random_network()], rules("clairvoyant")):
        with pytest.raises(InputError, match="at least one rule that does not see the future"):
            evaluation_record(SCENARIO, policies, learned="learned", seeds=[0])


def test_splits_are_different_sessions() -> None:
    roots = [set(SCENARIO.trace(0, split).roots) for split in ("train", "validation", "test")]
    assert not roots[0] & roots[1] and not roots[1] & roots[2] and not roots[0] & roots[2]


def test_a_closed_loop_is_evaluated_too() -> None:
    (run,) = evaluate(closed_loop(SCENARIO, 6), rules("house"), [0])["house"]
    assert run.sessions_finished == SCENARIO.num_sessions
