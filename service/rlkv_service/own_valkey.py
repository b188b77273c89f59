"""A Valkey server of a sidecar's own, which runs for as long as the sidecar does.

One that died is started again. One that outlived a sidecar that was killed is taken over: two
servers on one folder would destroy what is in it.
"""

from __future__ import annotations

import fcntl
import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

from rlkv_engine.errors import InputError, RlkvError
from rlkv_service.embedded_valkey import EmbeddedValkey, socket_url
from rlkv_service.redis_errors import RedisError, RedisReplyError, RedisTimeout
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection

_logger = logging.getLogger(__name__)

#: It is looked after so often, seconds.
LOOK_S = 0.5


class OwnValkey:
    """A server that is kept running; a context manager.

    Args:
        folder: for its socket and what it keeps; made if missing. Sidecars that are given the same
            one share the server.

    Raises:
        InputError: the folder cannot be used.
        RlkvError: the server does not start.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: EmbeddedValkey | None = None
        self.url = socket_url(folder)
        self._ensure()

    def keep_running(self, url: RedisURL, stop: threading.Event) -> None:
        """Starts it again whenever it has died; for a thread of its own."""
        complaint = ""
        while not stop.wait(LOOK_S):
            try:
                if self._ensure():
                    _logger.warning("the Valkey server had died and runs again")
                complaint = ""
            except RlkvError as error:
                if str(error) != complaint:
                    complaint = str(error)
                    _logger.error("%s: trying again", error)

    def stop(self) -> None:
        """Lets it write what it has, and ends it; other sidecars of the folder start it again."""
        if self._server is not None:
            self._server.stop()
            return
        with suppress(RedisError), RespConnection(self.url) as connection:
            connection.execute("SHUTDOWN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _ensure(self) -> bool:
        """Starts it unless it runs; whether it did. Of several sidecars only one does."""
        if self._server is not None and self._server.is_running:
            return False
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self._folder / "lock").open("w")
        except OSError as error:
            raise InputError(
                f"no folder for a server: {error.strerror}", path=self._folder
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._answers():
                return False
            self._server = EmbeddedValkey(self._folder)
            return True

    def _answers(self) -> bool:
        try:
            with RespConnection(self.url, timeout_s=1.0) as connection:
                connection.execute("PING")
        except (RedisTimeout, RedisReplyError):
            return True  # it is busy, or reads its file
        except RedisError:
            return False
        return True
