"""A sidecar in a process of its own, as ``rlkv serve`` starts it, with its own Valkey."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from rlkv_engine.errors import RlkvError

_STOP_TIMEOUT_S = 20.0


class SidecarProcess:
    """A running sidecar.

    Args:
        words: options of ``rlkv serve``, on top of a folder for its data.
        data_dir: of its Valkey; without it one that goes with the process.

    Raises:
        RlkvError: it does not start; the text is what it said last.
    """

    def __init__(self, *words: str, data_dir: Path | None = None) -> None:
        # Paths of unix sockets are short.
        self._folder = tempfile.TemporaryDirectory(prefix="rlkv-")
        data_dir = data_dir or Path(self._folder.name)
        program = "from rlkv.cli import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, "serve", "--data-dir", str(data_dir), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None and self._process.stderr is not None
        said = self._process.stdout.readline()
        if not said:
            last = self._process.stderr.read().strip().splitlines()[-3:]
            self.stop()
            raise RlkvError(f"the sidecar does not start: {' / '.join(last)}")
        #: The version of its policy.
        self.policy = said.split(",")[0]
        self.url = f"unix://{data_dir / 'valkey.sock'}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

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

    def stop(self) -> None:
        """Ends it, and removes its folder."""
        if self._process.poll() is None:
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._folder.cleanup()
