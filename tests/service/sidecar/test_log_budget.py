from __future__ import annotations

from rlkv_service.sidecar.counters import Counters, Histogram
from rlkv_service.sidecar.log_budget import LogBudget


def most(budget: LogBudget, num_bytes: int) -> int:
    words = budget.command(b"q" * (num_bytes - 100 - 96), b"a" * 100, 1.5)
    assert words[:4] == ("XADD", "log", "MAXLEN", "~") and words[5] == "*"
    assert words[-2:] == ("at", "1.500000")
    assert isinstance(words[4], int)
    return words[4]


def test_bytes_become_entries_by_their_mean_size() -> None:
    budget = LogBudget("log", 100_000)
    assert most(budget, 1000) == 100
    for _ in range(2000):
        most(budget, 2000)
    assert most(budget, 2000) == 50
    budget.measured(40_000, 10)
    assert 24 <= most(budget, 4000) <= 25
    budget.measured(0, 0)
    assert most(budget, 300_000) >= 1


def test_no_bytes_no_log() -> None:
    assert not LogBudget("log", 0).is_logging and LogBudget("log", 1).is_logging


def test_half_of_it_is_given_up_once_where_memory_is_short() -> None:
    budget = LogBudget("log", 100)
    assert budget.shrink(10) is None
    budget.failed("MISCONF the disk is full")
    assert budget.shrink(10) is None
    budget.failed("OOM command not allowed")
    assert budget.shrink(11) == ("XTRIM", "log", "MAXLEN", 5)
    assert budget.shrink(11) is None


def test_quantiles_of_a_histogram() -> None:
    histogram = Histogram((1.0, 2.0, 5.0), (0, 6, 3, 1), 20.0)
    assert histogram.count == 10
    assert [histogram.quantile(share) for share in (0.5, 0.9, 0.99)] == [2.0, 5.0, float("inf")]
    nothing = Counters().counts().decision_seconds
    assert nothing.count == 0 and nothing.quantile(0.5) != nothing.quantile(0.5)
