from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from rlkv_agents import side_by_side


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = side_by_side._num_threads
    yield
    side_by_side._num_threads = before


@pytest.mark.parametrize("num_threads", [1, 3])
def test_results_come_in_the_order_of_the_items(num_threads: int) -> None:
    side_by_side.use_threads(num_threads)
    assert list(side_by_side.each(lambda x: x * x, range(50))) == [x * x for x in range(50)]
    assert list(side_by_side.each(str, [])) == []


def test_several_are_under_way_at_once() -> None:
    side_by_side.use_threads(2)
    together = threading.Barrier(2)  # passed only by two at a time
    assert list(side_by_side.each(lambda _: together.wait(60) >= 0, range(2))) == [True, True]


def test_a_failure_is_heard_of() -> None:
    side_by_side.use_threads(2)

    def work(item: int) -> int:
        if item == 3:
            raise ValueError("the fourth one")
        return item

    results = side_by_side.each(work, range(1000))
    assert [next(results), next(results), next(results)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the fourth one"):
        next(results)


def test_one_process_of_several_works_on_one_item_at_a_time() -> None:
    side_by_side.use_threads(1)
    names = set(side_by_side.each(lambda _: threading.current_thread().name, range(9)))
    assert names == {threading.current_thread().name}
