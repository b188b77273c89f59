"""Who leaves a full cache first: blocks of the owner expected back last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

#: Owner of what several sessions have used: the last to leave.
SHARED = ""


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
        self, expected_back_s: Callable[[str], float], spare: Iterable[str] = ()
    ) -> Iterator[bytes]:
        """Keys, the first are to go first: of each owner those at the end of the context.

        Args:
            expected_back_s: how long until an owner is back; infinite: he never is.
            spare: owners who keep theirs.
        """
        latest = sorted(
            (owner for owner in self._owned if owner != SHARED and owner not in spare),
            key=expected_back_s,
            reverse=True,
        )
        for owner in (*latest, SHARED):
            yield from reversed(self._owned.get(owner, {}))
