"""Stock vLLM, vLLM with the plug-in, and the sidecar that the plug-in asks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlkv.real_vllm.policies import connector
from rlkv.real_vllm.server import VllmServer
from rlkv.sidecar_process import SidecarProcess
from rlkv_service.embedded_valkey import EmbeddedValkey
from tests.vllm.server.agent import text

ROOT = Path(__file__).parents[3]
#: The sidecar's environment is the project's: vLLM's own has what vLLM needs.
OWN_PYTHON = ROOT / ".venv" / "bin" / "python"
#: The engine's name in the log.
ENGINE = "vllm-under-test"
HOST_GIB = 0.05
#: Requests after which whatever an engine was waiting for must have come.
NUM_NUDGES = 200


class Deployment:
    """Servers and a sidecar, all of them processes."""

    def __init__(self, folder: Path, model: Path, num_blocks: int) -> None:
        self.valkey = EmbeddedValkey(folder)
        self.sidecar = self._new_sidecar()
        off = connector("off")
        asks = connector("sidecar", redis=str(self.valkey.url), engine_id=ENGINE, host_gib=HOST_GIB)
        self.stock, self.plugged = (
            VllmServer(
                sys.executable,
                model,
                folder / f"{name}.log",
                num_blocks=num_blocks,
                connector=config,
                # Tests that run the engine in their own process say otherwise.
                env={"VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
                words=words,
            )
            for name, config, words in (("stock", off, ()), ("plugged", asks, TOOL_WORDS))
        )

    def wait(self) -> None:
        """Until both servers are ready."""
        self.stock.wait()
        self.plugged.wait()

    def restart_sidecar(self) -> None:
        """Another one in the place of one that was killed."""
        self.sidecar.stop()
        self.sidecar = self._new_sidecar()

    def stop(self) -> None:
        self.stock.stop()
        self.plugged.stop()
        self.sidecar.stop()
        self.valkey.stop()

    def log_figures(self) -> dict[str, Any]:
        """What ``rlkv log stats`` says."""
        words = ["log", "stats", "--redis", str(self.valkey.url), "--json"]
        said = subprocess.run(
            [str(OWN_PYTHON), "-m", "rlkv", *words], capture_output=True, text=True, check=True
        )
        figures: dict[str, Any] = json.loads(said.stdout)
        return figures

    def _new_sidecar(self) -> SidecarProcess:
        return SidecarProcess("--redis", str(self.valkey.url), python=OWN_PYTHON)


#: For structured answers without blanks, which a random model would go on with for ever.
TOOL_WORDS: Sequence[str] = (
    "--structured-outputs-config",
    json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
)


def event(server: VllmServer, name: str) -> float:
    """What the plug-in has counted."""
    return server.metric("rlkv_events_total", event=name)


def answered(server: VllmServer) -> float:
    """Decisions that a sidecar has answered."""
    reasons = ("POLICY", "UNSURE", "OUTSIDE", "NO_POLICY", "SHADOW")
    return sum(event(server, f"asked:{reason}") for reason in reasons)


def nudge(server: VllmServer) -> None:
    """A request of one token: an idle engine neither applies nor reports anything."""
    server.complete(text(7, 1), 1)
