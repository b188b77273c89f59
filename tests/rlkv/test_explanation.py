"""Thresholds in words and units; explanations in records."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from rlkv.explain_text import explanation_markdown, overview_markdown
from rlkv.report.departures_picture import departures_png
from rlkv.report.explanation import about_departures, about_validation, findings, percent
from rlkv.report.feature_words import Units, question
from rlkv.report.order_words import order_formula
from rlkv.report.record import check_record
from rlkv.report.write import write_report
from rlkv_agents.house_rule import House
from rlkv_agents.rules import constants_of
from rlkv_engine.errors import InputError
from rlkv_engine.observe import FEATURES
from rlkv_engine.victim_order import NUM_ORDER_TERMS
from tests.rlkv.test_report import make_record

UNITS = Units(device_tokens=200_000, mean_pause_s=50.0)


@pytest.mark.parametrize(
    ("feature", "threshold", "said"),
    [
        ("remaining_pauses", 0.5, "its expected remaining pause <= 1.00 mean pauses (50.0 s here)"),
        ("remaining_10s", 0.75, "its expected remaining pause <= 30.0 s"),
        ("remaining_0.3s", 0.5, "its expected remaining pause <= 300 ms"),
        ("remaining_recompute", 0.5, "its expected remaining pause over recomputing it <= 10.0x"),
        ("link_speed", 1.0, "copying a block over recomputing it <= 10.0x"),
        ("context", 0.05, "the candidate's context <= 5 % of the pool (10,000 tokens)"),
        ("paused_firm", 0.21, "device memory held by paused sessions <= 21 % of the pool"),
        ("turn", 0.6, "its turns so far <= 5"),
        ("rank", 0.5, "candidates asked before it <= 4"),
        ("queued", 0.45, "returned sessions that wait for memory <= 5"),
        ("copying", 0.5, "it is not being copied out"),
        ("rule_swap", 0.5, "the rule does not say swap"),
        ("elapsed", 0.8, "its pause so far <= 53.6 s"),
        ("host_size", 0.5, "host memory over device memory <= 1.00x"),
    ],
)
def test_thresholds_in_words(feature: str, threshold: float, said: str) -> None:
    assert question(feature, threshold, UNITS).startswith(said)


@pytest.mark.parametrize("feature", [feature.name for feature in FEATURES])
@pytest.mark.parametrize("threshold", [0.0, 0.37, 1.0])
def test_every_feature_has_words(feature: str, threshold: float) -> None:
    said = question(feature, threshold, UNITS)
    assert said and "nan" not in said and "\n" not in said


def make_explanation(**more: Any) -> dict[str, Any]:
    def part(departed: float) -> dict[str, Any]:
        return {"decisions": 0.5, "departed": departed, "verbs": [departed, 0.0, 0.0]}

    return {
        "policy": "net", "kind": "network", "rule": "house", "mean_pause_s": 2.0,
        "departures": {
            "departed": 0.25,
            "requesters": {
                "CALL": {"decisions": 0.5, "departed": 0.0, "directions": []},
                "NEW": {"decisions": 0.5, "departed": 0.5, "directions": [[1, 0, 0.5]]},
            },
            "quantities": {
                "context": {
                    "title": "context", "unit": "tokens", "edges": [100.0, 1000.0, 2000.0],
                    "requesters": {"NEW": [part(0.4), part(0.6)]},
                },
            },
        },
        "trees": [
            {"requester": "NEW", "who": "A new session needs memory", "decisions": 0.5,
             "agreement": 0.97, "departed": 0.5, "lines": ["if a < b:", "    SWAP"]},
        ],
        "depth": 2,
        "validation": {"teacher": {"ratio": 0.9, "score": -0.1}, "depth 2": {"ratio": 0.91}},
        "saved": "network",
        "latency": {
            name: {"mean_s": 0.02, "ci95": [0.019, 0.021],
                   "ratio_to_rule": {"ratio": 0.9, "ci95": [0.85, 0.95]},
                   "ratio_to_policy": {"ratio": 1.0, "ci95": [1.0, 1.0]}}
            for name in ("rule", "network", "trees, depth 2")
        },
        **more,
    }  # fmt: skip


@pytest.mark.pictures
def test_what_it_says() -> None:
    explanation: Any = make_explanation()
    assert about_departures(explanation) == (
        "net departs from its rule at 50 % of the decisions where memory is short: 50 % of those"
        " for NEW"
    )
    assert findings(explanation) == [
        "For a new session: 50 % of its decisions are PRESERVE where the rule says SWAP: it waits,"
        " where the rule would have taken a paused session's memory"
    ]
    assert "0.900x of the rule's latency, trees of depth 2 0.910x" in about_validation(explanation)
    assert [percent(share) for share in (0.0, 0.0312, 0.5)] == ["0 %", "3.1 %", "50 %"]
    png = departures_png(explanation)
    assert png is not None and png.startswith(b"\x89PNG")


def test_pages() -> None:
    one = {
        "scenario": "coding", "profile": "p", "workload": "w", "rate_per_s": 2.0,
        "seeds": [0, 1], "explanation": make_explanation(),
    }  # fmt: skip
    page = explanation_markdown(one, "a.png")
    assert "![Where net departs from its rule](a.png)" in page and "```\nif a < b:" in page
    head = overview_markdown({"explained": [one], "command": "rlkv explain b", "commit": "c"})
    assert "| coding | 25 % | 0.900x [0.850, 0.950] |" in head and "2 paired" in head


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"trees": [{"requester": "NEW"}]}, "explanation.trees[0]"),
        ({"departures": {"departed": "much"}}, "explanation.departures"),
        ({"latency": {"rule": {"mean_s": "x"}}}, "explanation.latency"),
        ({"mean_pause_s": None}, "explanation.mean_pause_s"),
    ],
)
def test_a_damaged_explanation_is_named(change: dict[str, Any], place: str) -> None:
    record = make_record(explanation=make_explanation(**change))
    with pytest.raises(InputError) as caught:
        check_record(record, "record.json")
    assert place.split(".")[0] in str(caught.value)


def test_the_report_shows_it(tmp_path: Any) -> None:
    write_report(make_record(explanation=make_explanation()), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "What was learnt" in page and "if a &lt; b:" in page
    assert (tmp_path / "departures.png").exists()


def test_a_learned_order_is_a_formula() -> None:
    assert order_formula({"guard_pauses": 1.0, "order_dirty": 0.0}) == ""
    house = House(order_turns=1.06, order_dirty=-1.5, order_soon=0.4, order_remaining=0.2)
    assert order_formula(constants_of(house)) == (
        "expected remainder^1.2 * turns^1.1 * exp(-1.5 * share not on the host)"
        " * exp(0.4) if back within a mean pause"
    )
    # Every term has words.
    every = House().with_order(np.full(NUM_ORDER_TERMS, 0.5))
    formula = order_formula(constants_of(every))
    assert formula.count(" * ") >= NUM_ORDER_TERMS - 1
