"""Everything at once: Valkey and ``rlkv serve`` in processes of their own, and wires that fail."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from rlkv.sidecar_process import SidecarProcess
from rlkv_service.decision_log.entries import decode_outcome
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from rlkv_service.resp_parser import Reply, Word
from rlkv_service.schema import Outcome
from tests.rlkv.faults.bundles import Bundles
from tests.service.client.bad_wire import BadWire

KEYS = RedisKeys()


class System:
    """A server, a sidecar, and for each kind of its users a wire to the server."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        self.bundles = Bundles(folder / "bundle")
        self.valkey = EmbeddedValkey(folder)
        self.engine_wire = BadWire(self.valkey.url, "engines")
        self.sidecar_wire = BadWire(self.valkey.url, "sidecars")
        self.sidecar = self.new_sidecar(*words)

    def new_sidecar(self, *words: str, url: RedisURL | None = None) -> SidecarProcess:
        """Another sidecar on the queue, behind the wire unless told otherwise."""
        where = str(url or self.sidecar_wire.url)
        return SidecarProcess("--redis", where, "--bundle", str(self.bundles.folder), *words)

    def restart_sidecar(self) -> None:
        """One in the place of one that was killed."""
        self.sidecar.stop()
        self.sidecar = self.new_sidecar()

    def restart_valkey(self, *, empty: bool = False) -> None:
        """A server in the place of one that was killed."""
        if empty:
            shutil.rmtree(self.folder / "valkey")
        self.valkey = EmbeddedValkey(self.folder)

    def execute(self, *words: Word) -> Reply:
        """A command, on the server's own socket."""
        with RespConnection(self.valkey.url) as connection:
            return connection.execute(*words)

    def reported_by(self, engine_id: str) -> list[tuple[str, str, int | str]]:
        """Engine, session and turn (or ``end``) of what is in the log of outcomes, in order."""
        entries = self.execute("XRANGE", KEYS.outcomes, "-", "+")
        messages = [decode_outcome(fields[1]) for _, fields in entries]
        return [
            (each.engine_id, each.session, each.turn if isinstance(each, Outcome) else "end")
            for each in messages
            if each.engine_id.startswith(f"{engine_id}-")
        ]

    def mend(self) -> None:
        """Whatever a test that failed has left broken."""
        for wire in (self.engine_wire, self.sidecar_wire):
            wire.delay_s, wire.spoiler, wire.spoils_commands = 0.0, None, False
        if not self.valkey.is_running:
            self.restart_valkey()
        os.kill(self.valkey.pid, signal.SIGCONT)
        if self.sidecar.is_running:
            self.sidecar.resume()
        else:
            self.bundles.put(0)
            self.restart_sidecar()

    def stop(self) -> None:
        self.sidecar.stop()
        for wire in (self.engine_wire, self.sidecar_wire):
            wire.__exit__()
        self.valkey.stop()
