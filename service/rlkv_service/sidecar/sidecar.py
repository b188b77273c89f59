"""A running sidecar: the loop, the log and the rounds, each in its thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rlkv_engine.errors import RlkvError
from rlkv_service.deciding.bundle_watch import BundleWatch
from rlkv_service.deciding.decider import Decider
from rlkv_service.pause_estimates import PauseEstimates
from rlkv_service.pauses import OnlinePauses, OutcomeFollower
from rlkv_service.redis_errors import RedisReplyError
from rlkv_service.redis_keys import DEFAULT_NAMESPACE, RedisKeys
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from rlkv_service.schema import Outcome, SessionEnd
from rlkv_service.sidecar.housekeeping import Housekeeping
from rlkv_service.sidecar.log_budget import DEFAULT_LOG_BYTES
from rlkv_service.sidecar.queue_loop import QueueLoop
from rlkv_service.sidecar.rehearsal import rehearse
from rlkv_service.sidecar.service import DecisionService

_logger = logging.getLogger(__name__)

#: What it needs beyond answering, until an event is set: run in a thread of its own.
Background = Callable[[RedisURL, threading.Event], None]


@dataclass(frozen=True, slots=True)
class SidecarOptions:
    """How a sidecar decides and what it keeps.

    Args:
        bundle: the folder of a bundle, or ``universal``.
        namespace: of the keys.
        shadow: the policy only watches.
        min_confidence: the policy leaves the rule only where it is at least so sure.
        log_bytes: that the log of decisions may take; 0: there is none.
    """

    bundle: Path | str = "universal"
    namespace: str = DEFAULT_NAMESPACE
    shadow: bool = False
    min_confidence: float = 0.0
    log_bytes: int = DEFAULT_LOG_BYTES


class Sidecar:
    """Answers from ``start`` to ``stop``; a context manager does both.

    Args:
        url: the server.
        options: see there.
        estimates: of pauses; None learns them from the outcomes.
        background: what else it has to do.

    Raises:
        InputError: the bundle cannot be used.
        RlkvError: the server cannot be reached, is too old, or refuses who we are.
    """

    def __init__(
        self,
        url: RedisURL,
        options: SidecarOptions | None = None,
        *,
        estimates: PauseEstimates | None = None,
        background: Sequence[Background] = (),
    ) -> None:
        options = options or SidecarOptions()
        keys = RedisKeys(options.namespace)
        if estimates is None:
            estimates = OnlinePauses()
            follower = OutcomeFollower(estimates, keys, on_message=self._learnt)
            background = (follower.run, *background)
        self._url = url
        _check_server(url, keys)
        watch = BundleWatch(options.bundle, lambda: self.service.recent.rows(), self._reloaded)
        decider = Decider(
            watch.first,
            estimates,
            shadow=options.shadow,
            min_confidence=options.min_confidence,
        )
        self.service = DecisionService(decider, url, keys, estimates, log_bytes=options.log_bytes)
        rehearse(watch.first, url, keys)
        #: Set, it ends.
        self.stop_event = threading.Event()
        loop = QueueLoop(self.service)
        rounds = Housekeeping(self.service, decider, watch)
        #: Why it stopped by itself: a bug.
        self.failure: Exception | None = None
        work = [loop.run, rounds.run, self.service.unlogged.run, *background]
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in work]

    def start(self) -> None:
        """Answers from now on."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Answers what it took, and ends."""
        self.stop_event.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self.service.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, work: Background) -> None:
        try:
            work(self._url, self.stop_event)
        except Exception as error:
            # Half a sidecar is worse than none: whoever runs it starts another.
            _logger.exception("the sidecar ends")
            self.failure = error
            self.stop_event.set()

    def _learnt(self, message: Outcome | SessionEnd) -> None:
        self.service.counters.recorded("outcome" if isinstance(message, Outcome) else "end")

    def _reloaded(self, result: str) -> None:
        self.service.counters.reloaded(result)


def _check_server(url: RedisURL, keys: RedisKeys) -> None:
    """Raises ``RlkvError`` unless there is a server that takes us and knows what we need."""
    with RespConnection(url) as connection:
        try:
            # A list that is never there; what is refused is refused now, and not in a thread.
            connection.execute("LMPOP", 1, keys.answers("nobody"), "LEFT")
        except RedisReplyError as error:
            if "unknown command" in str(error):
                raise RlkvError(f"{url} is too old: Redis 7 or Valkey is needed") from error
            if not str(error).startswith("LOADING"):
                raise RlkvError(f"{url} refuses: {error}") from error
