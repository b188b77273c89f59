"""Where things are in Redis or Valkey. All keys of a deployment share a namespace and a slot.

rlkv:{NS}:requests         list; messages of ``schema`` from engines, oldest first. Clients push at
                           the tail and cut it to ``MAX_REQUESTS``; sidecars take from the head.
rlkv:{NS}:answers:CLIENT   list; answers for one client connection, in whatever order they came.
                           Expires ``ANSWERS_EXPIRE_S`` after the last of them.
rlkv:{NS}:decisions        stream, cut to about ``--log-bytes``; one entry for each request that was
                           answered: ``q`` the request and ``a`` the answer, as they travelled,
                           ``at`` when, seconds since the epoch.
rlkv:{NS}:outcomes         stream, cut likewise; one entry for each outcome or end of a session:
                           ``m`` the message as it travelled. Entries are unique.
rlkv:{NS}:seen:LENGTH:ENGINE:SESSION:TURN   string; that outcome (or, with the turn ``end``, that
                           end) is in the stream. LENGTH is the engine's, in characters: names may
                           have colons. Expires after ``SEEN_EXPIRE_S``.
rlkv:{NS}:pauses           string; state of the predictor of pauses, and the last entry of
                           ``outcomes`` that it knows.
rlkv:{NS}:sidecars         hash; sidecar id -> JSON of what it says of itself, with the time.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_NAMESPACE = "default"
#: Requests that wait at most; when there are more the oldest go, which are late anyway.
MAX_REQUESTS = 4096
ANSWERS_EXPIRE_S = 30
SEEN_EXPIRE_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class RedisKeys:
    """The keys of one deployment."""

    namespace: str = DEFAULT_NAMESPACE

    @property
    def requests(self) -> str:
        """List of requests."""
        return self._key("requests")

    def answers(self, client_id: str) -> str:
        """List of answers for one client connection."""
        return self._key(f"answers:{client_id}")

    @property
    def decisions(self) -> str:
        """Stream of requests with their answers."""
        return self._key("decisions")

    @property
    def outcomes(self) -> str:
        """Stream of outcomes and ends."""
        return self._key("outcomes")

    def seen(self, engine_id: str, session: str, turn: int | str) -> str:
        """Whether an outcome or an end is in the stream."""
        return self._key(f"seen:{len(engine_id)}:{engine_id}:{session}:{turn}")

    @property
    def pauses(self) -> str:
        """State of the predictor."""
        return self._key("pauses")

    @property
    def sidecars(self) -> str:
        """Hash of the sidecars that are alive."""
        return self._key("sidecars")

    def _key(self, name: str) -> str:
        return f"rlkv:{{{self.namespace}}}:{name}"
