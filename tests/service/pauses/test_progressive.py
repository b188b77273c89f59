from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.traces import read_trace
from rlkv_envs.workloads import make_trace, make_workload
from rlkv_envs.workloads.arrivals import Poisson
from rlkv_service.pauses.progressive import progressive_losses

DATA = Path(__file__).parents[3].parent / "shared" / "data"


def served(workload: str, num_sessions: int = 300) -> Trace:
    return make_trace(
        make_workload(workload), Poisson(0.5), seed=1, split="test", num_sessions=num_sessions
    )


def ratio(figures: dict[str, dict[str, dict[str, float]]], level: str) -> float:
    ours, theirs = (figures[each]["pinball_log"][level] for each in ("online", "static"))
    return ours / theirs


def test_where_nothing_changes_it_is_as_good_as_a_fitted_table() -> None:
    figures = progressive_losses(served("crossover"))
    for level in ("0.5", "0.9"):
        assert 0.95 < ratio(figures, level) < 1.05
    assert 0.45 < figures["online"]["coverage"]["0.5"] < 0.55
    assert 0.87 < figures["online"]["coverage"]["0.9"] < 0.94


def test_where_tools_become_slower_it_follows() -> None:
    usual = served("crossover", 600)
    late = np.repeat(usual.arrival_s > usual.arrival_s[300], np.diff(usual.first_turn))
    slower = replace(usual, pause_s=np.where(late, 8.0 * usual.pause_s, usual.pause_s))
    figures = progressive_losses(slower)
    assert ratio(figures, "0.5") < 0.85 and ratio(figures, "0.9") < 0.6
    assert figures["online"]["coverage"]["0.9"] > figures["static"]["coverage"]["0.9"] + 0.15


def test_too_few_pauses_are_refused_with_their_number() -> None:
    with pytest.raises(InputError, match=r"^crossover: \d+ pauses, 100 are needed"):
        progressive_losses(served("crossover", 10))


@pytest.mark.skipif(not DATA.is_dir(), reason="the recorded traces are not here")
@pytest.mark.parametrize(
    ("name", "most_p50", "most_p90"),
    [
        ("weka_cc_traces/weka_cc_dev.csv.gz", 0.93, 0.92),
        ("infercept_mixed/infercept_mixed_numeric.csv", 0.3, 0.5),
        ("mooncake/conversation_trace.jsonl", 1.0, 1.03),
    ],
)
def test_on_recorded_sessions_it_is_at_least_as_good(
    name: str, most_p50: float, most_p90: float
) -> None:
    figures = progressive_losses(read_trace(DATA / name))
    assert ratio(figures, "0.5") < most_p50 and ratio(figures, "0.9") < most_p90
    assert 0.87 < figures["online"]["coverage"]["0.9"] < 0.95
