"""A sidecar in a process of its own, as ``rlkv serve`` starts it, with its own Valkey."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from rlkv_engine.errors import RlkvError
from rlkv_service.embedded_valkey import socket_url

#: It may have to be compiled first, seconds.
START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 20.0


class SidecarProcess:
    """A running sidecar.

    Args:
        words: options of ``rlkv serve``, on top of a folder for its data unless ``--redis`` is one
            of them; with ``--http`` the port may be 0.
        data_dir: of its Valkey; without it one that goes with the process.
        python: of the environment that it runs in.

    Raises:
        RlkvError: it does not start; the text is what it said last.
    """

    def __init__(
        self, *words: str, data_dir: Path | None = None, python: Path | str = sys.executable
    ) -> None:
        # Paths of unix sockets are short.
        self._folder = tempfile.TemporaryDirectory(prefix="rlkv-")
        data_dir = data_dir or Path(self._folder.name)
        place = [] if "--redis" in words else ["--data-dir", str(data_dir)]
        # Into a file: a pipe that nobody reads fills up.
        self._stderr = Path(self._folder.name) / "stderr"
        with self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [str(python), "-m", "rlkv", "serve", *place, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], START_TIMEOUT_S)
        num_lines = (3 if "--http" in words else 2) if ready else 0
        lines = [self._process.stdout.readline() for _ in range(num_lines)]
        if not lines or not lines[-1]:
            last = self.complaints.strip().splitlines()[-3:]
            self.stop()
            raise RlkvError(f"rlkv serve does not start: {' / '.join(last)}")
        #: The version of its policy.
        self.policy = lines[0].split(",")[0]
        self.url = str(socket_url(data_dir))
        #: Of its decision API; empty: it has none.
        self.http_url = lines[2].removeprefix("others: ").rstrip() if "--http" in words else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether the process lives, stopped or not."""
        return self._process.poll() is None

    @property
    def complaints(self) -> str:
        """What it has written to standard error so far."""
        return self._stderr.read_text(errors="replace")

    @property
    def cpu_s(self) -> float:
        """CPU time of the sidecar so far, its Valkey's not in it, seconds."""
        # The clock that clock_getcpuclockid names; the ticks of /proc are 10 ms.
        return time.clock_gettime(~self._process.pid << 3 | 2)

    def suspend(self) -> None:
        """Stops it without its knowledge (SIGSTOP)."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it as a crash would (SIGKILL); its own Valkey goes on."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ends it, and removes its folder."""
        if self.is_running:
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._folder.cleanup()
