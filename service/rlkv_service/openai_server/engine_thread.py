"""The one thread that talks to the engine."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from rlkv_service.openai_server.errors import ApiError, crashed
from rlkv_service.openai_server.serving import Serving

T = TypeVar("T")
_log = logging.getLogger(__name__)
#: Longest that it waits at a time, seconds: ``Condition.wait`` takes no infinity.
_LONGEST_WAIT_S = 3600.0


class EngineThread:
    """Steps the engine while there is work, and carries out between steps what others ask for.

    It sleeps while nothing is to be done. After an error nothing more is carried out: whatever is
    and will be asked fails.

    Args:
        serving: to whom only this thread talks once it has started.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._wake = threading.Condition()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._refusal: ApiError | None = None  # of all calls from now on
        self._thread = threading.Thread(target=self._run, name="rlkv-engine", daemon=True)
        #: How often the engine was stepped.
        self.num_steps = 0

    @property
    def is_alive(self) -> bool:
        """Whether it serves."""
        return self._thread.is_alive() and self._refusal is None

    def start(self) -> None:
        """Begins to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Fails what is being served, and returns when the thread has ended."""
        with self._wake:
            if self._refusal is None:
                self._refusal = ApiError(503, "the server is shutting down", code="shutting_down")
            self._wake.notify()
        self._thread.join()

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Has the thread call a function between two steps.

        The future fails with ``ApiError`` where the function does, or the thread has ended.
        """
        future: Future[T] = Future()
        with self._wake:
            if self._refusal is not None:
                future.set_exception(self._refusal)
            else:
                self._calls.append((future, function))
                self._wake.notify()
        return future

    def _run(self) -> None:
        try:
            while self._wait():
                while self._calls:
                    _carry_out(*self._calls.popleft())
                self._serving.step()
                self.num_steps += 1
                self._serving.flush()
        except BaseException:
            _log.exception("the engine has crashed")
            self._refuse(crashed())
        finally:
            self._serving.close()

    def _wait(self) -> bool:
        # Until there is something to do; False: until it ends.
        with self._wake:
            while not self._calls and self._refusal is None:
                idle_s = self._serving.idle_s
                if idle_s == 0.0:
                    break
                self._wake.wait(min(idle_s, _LONGEST_WAIT_S))
            refusal = self._refusal
        if refusal is not None:
            self._refuse(refusal)
        return refusal is None

    def _refuse(self, refusal: ApiError) -> None:
        with self._wake:
            self._refusal = refusal
            calls = list(self._calls)
            self._calls.clear()
        for future, _ in calls:
            if future.set_running_or_notify_cancel():
                future.set_exception(refusal)
        self._serving.fail_all(refusal)


def _carry_out(future: Future[Any], function: Callable[[], Any]) -> None:
    # An error that is not for the client is a bug: the thread ends on it.
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except ApiError as refusal:
        future.set_exception(refusal)
    except BaseException:
        future.set_exception(crashed())
        raise
