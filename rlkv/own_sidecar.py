"""``rlkv serve`` in a process of its own, for as long as something needs a sidecar."""

from __future__ import annotations

import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlkv_agents.shipped import bundle_folder
from rlkv_engine.errors import RlkvError
from rlkv_service.embedded_valkey import socket_url
from rlkv_service.redis_url import RedisURL

#: It may have to be compiled first, seconds.
START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 15.0


@contextmanager
def own_sidecar(bundle: Path | str) -> Iterator[RedisURL]:
    """Starts a sidecar with a bundle and a Valkey of its own; both end with the block.

    Yields:
        Where it is asked.

    Raises:
        RlkvError: it does not start; the text has the last of what it said.
    """
    # Paths of unix sockets are short.
    with tempfile.TemporaryDirectory(prefix="rlkv-") as folder:
        said = Path(folder) / "stderr"
        with said.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "rlkv", "serve", "--data-dir", folder, "--bundle",
                 str(bundle_folder(bundle))],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
            )  # fmt: skip
        try:
            _wait_until_ready(process, said)
            yield socket_url(Path(folder))
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _wait_until_ready(process: subprocess.Popen[bytes], said: Path) -> None:
    # Its first line is the policy and the address.
    assert process.stdout is not None
    deadline_s = time.monotonic() + START_TIMEOUT_S
    ready, _, _ = select.select([process.stdout], [], [], deadline_s - time.monotonic())
    if not ready or not process.stdout.readline():
        lines = said.read_text(errors="replace").splitlines()
        raise RlkvError(f"rlkv serve does not start: {' / '.join(lines[-3:])}")
