from __future__ import annotations

from rlkv_service.adapters.vllm.victim_order import SHARED, VictimOrder


def order_of(backs: dict[str, int]) -> VictimOrder:
    """Two keys of each owner."""
    order = VictimOrder()
    for owner in backs:
        for key in ("1", "2"):
            order.add(owner, f"{owner}{key}".encode())
    return order


def test_the_latest_go_first_from_the_end_and_what_is_shared_last() -> None:
    backs = {"a": 1, SHARED: 0, "b": 3, "c": 2}
    order = order_of(backs)
    assert list(order.victims(backs.__getitem__)) == [b"b2", b"b1", b"c2", b"c1", b"a2", b"a1",
                                                      b"2", b"1"]  # fmt: skip
    assert list(order.victims(backs.__getitem__, 1)) == [b"b2", b"b1", b"c2", b"c1", b"2", b"1"]


def test_as_many_count_as_would_go() -> None:
    backs = {"a": 1, SHARED: 0, "b": 3, "c": 2, "d": 2}
    order = order_of(backs)
    by_return = order.by_return(backs.__getitem__)
    for later_than_s in (-1, 0, 1, 1.5, 2, 3, 4):
        victims = list(order.victims(backs.__getitem__, later_than_s))
        assert by_return.num_later_than(later_than_s) == len(victims)


def test_of_many_owners_a_few_are_looked_at_and_others_the_next_time() -> None:
    backs = {str(i): 0 if i < 100 else 9 for i in range(120)}
    order, looked = order_of(backs), []

    def expected_back_s(owner: str) -> float:
        looked.append(owner)
        return backs[owner]

    tries = 0
    while not (victims := list(order.victims(expected_back_s, 5, most_owners=16))):
        tries += 1
    assert tries == 6 and len(looked) == 7 * 16
    # The first hundred were passed over, so that twelve of the last twenty are left here.
    assert len(victims) == 2 * 12 and all(backs[key.decode()[:-1]] == 9 for key in victims)
