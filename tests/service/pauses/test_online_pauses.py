from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rlkv_engine.estimates import GRID_S, HORIZON_PAUSES, fit_pause_table
from rlkv_envs.workloads import make_workload
from rlkv_service.pauses import OnlinePauses, PauseWeights
from rlkv_service.pauses.bins import BINS_PER_DECADE, LOW_S, NUM_BINS, edges_s
from rlkv_service.pauses.key_rows import KeyRows
from rlkv_service.pauses.online_pauses import MAX_OWN, MAX_TOOLS
from rlkv_service.schema import SchemaError

#: One bin, and what is below the first one.
WIDTH = 10.0 ** (1.0 / BINS_PER_DECADE)
REMEMBERING = PauseWeights(engine_memory=1e12, tool_memory=1e12)
F8 = NDArray[np.float64]


@st.composite
def pauses_of_all_lengths(draw: st.DrawFn) -> F8:
    """Two crowds, some values that repeat, and zeros."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num, crowds = draw(st.integers(60, 300)), draw(st.lists(st.floats(-8.0, 12.0), min_size=2))
    pause_s = np.exp(rng.normal(rng.choice(crowds, num), draw(st.floats(0.0, 2.0))))
    atoms = draw(st.lists(st.sampled_from([0.0, 1e-3, 1.0, 60.0, 9e5]), max_size=3))
    if atoms:
        pause_s[: num // 3] = rng.choice(atoms, num // 3)
    return np.minimum(pause_s, 9.9e5)


def learnt(pause_s: F8, tool: str = "tool", weights: PauseWeights = REMEMBERING) -> OnlinePauses:
    pauses = OnlinePauses(weights)
    for i, each in enumerate(pause_s):
        pauses.add("engine", f"session {i}", tool, float(each), i)
    return pauses


def said(pauses: OnlinePauses, elapsed_s: float, tool: str = "tool") -> tuple[float, float, float]:
    mean_s, p50_s, p90_s = pauses.remaining("engine", ["new"], [tool], np.array([elapsed_s]))
    return float(mean_s[0]), float(p50_s[0]), float(p90_s[0])


@given(pauses_of_all_lengths(), st.integers(0, NUM_BINS - 1))
@settings(max_examples=40)
def test_quantiles_are_numpys_to_a_bin(pause_s: F8, begin: int) -> None:
    elapsed_s = float(edges_s()[begin])
    left_s = pause_s[pause_s >= elapsed_s]
    if len(left_s) < 20:
        left_s, elapsed_s = pause_s, 0.0
    _, *quantiles_s = said(learnt(pause_s), elapsed_s)
    # The tail that stands for one pause more moves a quantile by one pause at most, and NumPy puts
    # it up to one away.
    slack = 2.0 / len(left_s)
    for level, value in zip((0.5, 0.9), quantiles_s, strict=True):
        low_s = np.quantile(left_s, max(level - slack, 0.0), method="lower")
        high_s = np.quantile(left_s, min(level + slack, 1.0), method="higher")
        assert low_s / WIDTH - LOW_S <= elapsed_s + value <= high_s * WIDTH + LOW_S


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
def test_what_is_left_is_what_the_samples_say(spread: float) -> None:
    pause_s = np.exp(np.random.default_rng(3).normal(1.0, spread, 4000))
    pauses = learnt(pause_s)
    assert pauses.mean_pause_s("engine") == pytest.approx(pause_s.mean(), rel=1e-9)
    horizon_s = HORIZON_PAUSES * pause_s.mean()
    for elapsed_s in (0.0, 0.3, 1.0, 3.0, 6.0):
        left_s = pause_s[pause_s > elapsed_s] - elapsed_s
        if len(left_s) < 400:
            continue
        mean_s, p50_s, p90_s = said(pauses, elapsed_s)
        # 5 % of the whole pause, of which a bin is a part.
        assert mean_s == pytest.approx(np.minimum(left_s, horizon_s).mean(), rel=0.03)
        assert elapsed_s + p50_s == pytest.approx(elapsed_s + np.quantile(left_s, 0.5), rel=0.05)
        assert elapsed_s + p90_s == pytest.approx(elapsed_s + np.quantile(left_s, 0.9), rel=0.05)


def test_laws_are_those_that_would_be_fitted_on_the_pauses() -> None:
    bodies = make_workload("coding-agent").bodies(np.random.default_rng(0), "train", 1000)
    fitted = fit_pause_table(bodies)
    pauses = OnlinePauses(REMEMBERING)
    called = np.flatnonzero(np.isfinite(bodies.pause_s))
    for i in called:
        pauses.add("engine", str(i), bodies.tools[bodies.tool[i]], float(bodies.pause_s[i]), int(i))
    well_known = GRID_S < 100.0
    # All pauses together, as advice takes them.
    table = pauses.table("engine")
    assert table is not None and table.mean_pause_s == pytest.approx(fitted.mean_pause_s)
    assert table.residual_s[0, well_known] == pytest.approx(
        fitted.residual_s[-1, well_known], rel=0.06
    )
    quantiles_s = fitted.quantiles_s[-1, 5:95]
    assert table.quantiles_s[0, 5:95] == pytest.approx(quantiles_s, rel=0.06)
    # Each tool that was called often, as sessions hear of it that are new.
    elapsed_s, num = GRID_S[well_known], int(well_known.sum())
    often = np.flatnonzero(np.bincount(bodies.tool[called], minlength=len(fitted.tools)) > 500)
    assert len(often)
    for row in often:
        tools = [fitted.tools[row]] * num
        left = pauses.remaining("engine", ["new"] * num, tools, elapsed_s)
        assert left.mean_s == pytest.approx(fitted.residual_s[row, well_known], rel=0.06)
        p50_s, p90_s = fitted.quantiles_s[row, [50, 90]]
        assert (left.p50_s[0], left.p90_s[0]) == pytest.approx((p50_s, p90_s), rel=0.06)


def test_what_lasts_longer_than_anything_seen_lasts_as_long_again() -> None:
    pauses = learnt(np.full(1000, 2.0))
    mean_s, p50_s, p90_s = said(pauses, 500.0)
    assert mean_s == pytest.approx(HORIZON_PAUSES * 2.0, rel=0.05)
    assert p50_s == pytest.approx(501.0, rel=0.05) and p90_s == pytest.approx(9 * 501.0, rel=0.05)
    mean_s, p50_s, p90_s = said(pauses, 2e6)
    assert (mean_s, p50_s, p90_s) == pytest.approx((HORIZON_PAUSES * 2.0, 2e6, 18e6))


def test_an_engine_without_pauses_is_not_guessed_at() -> None:
    pauses = learnt(np.ones(20))
    left = pauses.remaining("another", ["a", "b"], ["tool", "tool"], np.zeros(2))
    assert all(np.isnan(each).all() and each.shape == (2,) for each in left)
    assert math.isnan(pauses.mean_pause_s("another")) and pauses.table("another") is None
    few = OnlinePauses()
    for i in range(7):
        few.add("engine", "session", "tool", 1.0, i)
    assert few.table("engine") is None and few.mean_pause_s("engine") == 1.0


def test_a_shift_is_followed_and_the_past_forgotten() -> None:
    pauses = OnlinePauses(PauseWeights(engine_memory=400.0, tool_memory=100.0))
    for i in range(3000):
        pauses.add("engine", f"session {i}", "tool", 100.0, i)
    for i in range(3000, 3800):
        pauses.add("engine", f"session {i}", "tool", 1.0, i)
    _, p50_s, p90_s = said(pauses, 0.0)
    assert p50_s == pytest.approx(1.0, rel=0.05) and p90_s == pytest.approx(1.0, rel=0.05)
    table = pauses.table("engine")
    # All tools together remember longer, as they were told.
    assert table is not None and 5.0 < table.mean_pause_s < 20.0
    # One that never forgets still expects what was.
    assert said(learnt(np.repeat([100.0, 1.0], [3000, 800])), 0.0)[1] > 95.0


def test_a_new_tool_is_like_all_tools_and_a_known_one_like_itself() -> None:
    pauses = learnt(np.full(500, 10.0), "slow")
    assert said(pauses, 0.0, "new")[1] == pytest.approx(10.0, rel=0.05)
    pauses.add("engine", "one", "new", 0.1, 1000)
    once = said(pauses, 0.0, "new")[0]
    assert 5.0 < once < 10.0  # one call is not believed alone
    for i in range(200):
        pauses.add("engine", f"another {i}", "new", 0.1, 2000 + i)
    assert said(pauses, 0.0, "new")[1] == pytest.approx(0.1, rel=0.05)
    assert said(pauses, 0.0, "slow")[1] == pytest.approx(10.0, rel=0.05)


def test_a_session_that_is_different_is_told_apart_until_it_ends() -> None:
    pauses = learnt(np.full(500, 10.0))
    for i in range(8):
        pauses.add("engine", "quick", "tool", 0.5, 1000 + i)
    both = pauses.remaining("engine", ["quick", "session 7"], ["tool", "tool"], np.zeros(2))
    assert both.mean_s[0] < 7.0 and both.mean_s[1] == pytest.approx(10.0, rel=0.1)
    # Once its own have all been over by now, its tool's are what is left.
    assert pauses.remaining("engine", ["quick"], ["tool"], np.array([5.0])).p50_s[
        0
    ] == pytest.approx(5.0, rel=0.1)
    pauses.end("engine", "quick")
    after = pauses.remaining("engine", ["quick"], ["tool"], np.zeros(1))
    assert after.mean_s[0] == pytest.approx(said(pauses, 0.0)[0])


@given(st.permutations(list(range(12))))
@settings(max_examples=30)
def test_the_order_of_what_was_over_at_once_does_not_matter(order: list[int]) -> None:
    def fed(moment: list[int]) -> OnlinePauses:
        pauses = learnt(np.linspace(0.1, 30.0, 50), weights=PauseWeights())
        for i in moment:
            pauses.add("engine", f"at once {i}", f"tool {i % 3}", 0.5 * (1 + i), 1000)
        pauses.add("engine", "later", "tool 0", 1.0, 1001)
        return pauses

    elapsed_s = np.array([0.0, 0.0, 2.0, 7.0])
    asked = (["at once 3", "new", "new", "at once 1"], ["tool 0", "tool 1", "tool 2", "nobody's"])
    usual = fed(list(range(12))).remaining("engine", *asked, elapsed_s)
    other = fed(order).remaining("engine", *asked, elapsed_s)
    for each, also in zip(usual, other, strict=True):
        assert each == pytest.approx(also, rel=1e-12)


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(5)
    pauses = OnlinePauses()
    for i in range(2000):
        pauses.add("engine", f"{i % 40}", f"tool {i % 7}", float(rng.lognormal(0.0, 2.0)), i)
    sessions, tools = [f"{i % 50}" for i in range(300)], [f"tool {i % 9}" for i in range(300)]
    elapsed_s = rng.lognormal(0.0, 2.0, 300)
    together = pauses.remaining("engine", sessions, tools, elapsed_s)
    assert all(np.isfinite(each).all() and (each >= 0.0).all() for each in together)
    assert (together.p50_s <= together.p90_s).all()
    for i in range(0, 300, 17):
        alone = pauses.remaining(
            "engine", sessions[i : i + 1], tools[i : i + 1], elapsed_s[i : i + 1]
        )
        assert [each[0] for each in alone] == [each[i] for each in together]


def test_names_made_up_for_each_call_neither_grow_it_nor_push_out_tools_in_use() -> None:
    pauses = OnlinePauses()
    for i in range(50):
        pauses.add("engine", f"usual {i}", "usual", 3.0, i)
    for i in range(3 * MAX_TOOLS):
        pauses.add("engine", f"hostile {i}", f"hostile {i}", 1000.0, 100 + i)
    assert len(pauses.tools.keys) <= MAX_TOOLS
    assert said(pauses, 0.0, "usual")[1] == pytest.approx(3.0, rel=0.05)
    for i in range(MAX_OWN):
        pauses.add("engine", f"another {i}", "usual", 3.0, 10_000 + i)
    assert len(pauses.own.keys) <= MAX_OWN
    with pytest.raises(SchemaError, match="a name of 257"):
        pauses.add("engine", "session", "x" * 257, 1.0, 0)


def test_the_least_recently_used_make_room_whatever_their_order() -> None:
    def kept(order: list[int]) -> set[tuple[str, ...]]:
        keys = KeyRows(16)
        for at_ms in range(9):
            for i in order:
                row = keys.rows.get((str(i),), -1)
                keys.use(keys.take((str(i),))[0] if row < 0 else row, at_ms)
        keys.use(keys.rows[("3",)], 20)
        keys.take(("new",))
        return set(keys.rows)

    usual = kept(list(range(16)))
    assert usual == kept(list(range(15, -1, -1)))
    assert usual == {(str(i),) for i in range(16)} - {("0",), ("1",)} | {("new",)}


@pytest.mark.parametrize("pause_s", [math.nan, math.inf, -1.0])
def test_a_pause_that_cannot_be_is_refused(pause_s: float) -> None:
    pauses = OnlinePauses()
    with pytest.raises(SchemaError, match="pause_s cannot be"):
        pauses.add("engine", "session", "tool", pause_s, 0)
    assert math.isnan(pauses.mean_pause_s("engine"))


def test_an_engine_that_comes_back_does_not_get_another_ones_laws() -> None:
    pauses = learnt(np.full(300, 1.0))
    assert said(pauses, 0.0)[1] == pytest.approx(1.0, rel=0.05)
    for i in range(300):
        pauses.add(f"engine {i}", "session", "tool", 50.0, 1000 + i)
        pauses.add(f"engine {i}", "session", "tool", 50.0, 1000 + i)
    assert said(pauses, 0.0)[1] == pytest.approx(1.0, rel=0.05)
