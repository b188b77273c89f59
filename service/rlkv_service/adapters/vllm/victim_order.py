"""Who leaves a full cache first: blocks of the owner expected back last."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, islice

#: Owner of what several sessions have used: the last to leave.
SHARED = ""
#: Owners that are looked at where a look at all would take too long.
MOST_OWNERS = 128


class VictimOrder:
    """Keys and the owner of each: the session that has stored or used it last."""

    def __init__(self) -> None:
        self._owner: dict[bytes, str] = {}
        self._owned: dict[str, dict[bytes, None]] = {}  # in the order of the context

    def __len__(self) -> int:
        return len(self._owner)

    def add(self, owner: str, key: bytes) -> None:
        """A key, or a key of somebody else, belongs to an owner, at the end of his context."""
        old = self._owner.get(key)
        if old != owner:
            if old is not None:
                self.remove(key)
            self._owner[key] = owner
            self._owned.setdefault(owner, {})[key] = None

    def remove(self, key: bytes) -> None:
        """A key is gone."""
        owner = self._owner.pop(key)
        owned = self._owned[owner]
        del owned[key]
        if not owned:
            del self._owned[owner]

    def owner_of(self, key: bytes) -> str | None:
        """To whom a key belongs; None: there is no such key."""
        return self._owner.get(key)

    def of(self, owner: str) -> Sequence[bytes]:
        """What belongs to an owner, in the order of the context."""
        return list(self._owned.get(owner, ()))

    def victims(
        self,
        expected_back_s: Callable[[str], float],
        later_than_s: float = -math.inf,
        most_owners: int | None = None,
    ) -> Iterator[bytes]:
        """Keys, the first are to go first: of each owner those at the end of the context.

        Args:
            expected_back_s: how long until an owner is back; infinite: he never is.
            later_than_s: owners who are expected back by then keep theirs.
            most_owners: that are looked at, those first whom nobody has looked at for longest.
        """
        back = [(expected_back_s(owner), owner) for owner in self._first(most_owners)]
        if most_owners is not None:
            for back_s, owner in back:
                if back_s <= later_than_s:  # the next time it is others' turn
                    self._owned[owner] = self._owned.pop(owner)
        latest = sorted(
            (each for each in back if each[0] > later_than_s),
            key=lambda each: each[0],
            reverse=True,
        )
        for owner in (*(owner for _, owner in latest), SHARED):
            yield from reversed(self._owned.get(owner, {}))

    def by_return(
        self, expected_back_s: Callable[[str], float], most_owners: int | None = None
    ) -> KeysByReturn:
        """How many keys there are, by when their owners are expected back; as ``victims`` looks."""
        keys = [(expected_back_s(o), len(self._owned[o])) for o in self._first(most_owners)]
        return KeysByReturn([*keys, (math.inf, len(self._owned.get(SHARED, ())))])

    def _first(self, most: int | None) -> list[str]:
        return list(islice((owner for owner in self._owned if owner != SHARED), most))


class KeysByReturn:
    """Numbers of keys, by when their owners are expected back.

    Args:
        owners: for each how long until he is back, and how many keys are his.
    """

    def __init__(self, owners: Iterable[tuple[float, int]]) -> None:
        in_order = sorted(owners)
        self._back_s = [back_s for back_s, _ in in_order]
        self._num_until = [0, *accumulate(num for _, num in in_order)]

    def num_later_than(self, back_s: float) -> int:
        """Keys of owners who are expected back later: ``victims`` that many."""
        return self._num_until[-1] - self._num_until[bisect_right(self._back_s, back_s)]
