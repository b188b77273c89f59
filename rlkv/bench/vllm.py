"""Agents and strangers on real vLLM servers, one for each way to treat the KV of a pause."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from rlkv.bench.intervals import Interval, ratio_interval
from rlkv.bench.measure import Size
from rlkv.bench.vllm_costs import Costs, Load, Memory, measure_costs
from rlkv.bench.vllm_pace import admissions, decode
from rlkv.bench.vllm_process import VARIABLE, vllm_python
from rlkv.bench.vllm_runs import TIMES, compared, run_figures, working_set_ratio
from rlkv.real_vllm.model_folder import write_model_folder
from rlkv.real_vllm.player import play
from rlkv.real_vllm.policies import POLICIES, STOCK, connector
from rlkv.real_vllm.server import BLOCK_SIZE, VllmServer
from rlkv.sidecar_process import SidecarProcess
from rlkv_engine.errors import InputError

#: Where ``make test-vllm`` puts an environment with vLLM.
OWN_PYTHON = Path(".venv-vllm/bin/python")
#: The host tier over the device pool, of the policies that swap.
_HOST_OVER_DEVICE = 2
#: The lease of ``ttl`` in mean pauses.
_TTL_PAUSES = 2.0
_FP32_BYTES = 4

Say = Callable[[str], None]


def vllm(size: Size, say: Say) -> dict[str, Any]:
    """The same traffic under every policy, ``size.vllm_runs`` times, the policies by turns.

    Every policy has a server of its own; they start first, and only one of them has traffic at a
    time. Then the pace of decoding with a stopped sidecar, and the wait of a large request beside
    preserved sessions.

    Args:
        size: how much.
        say: is told what is being done.

    Raises:
        InputError: there is no vLLM, or a policy that is none.
        RlkvError: a server does not start, or fails.
    """
    python = vllm_python() or (str(OWN_PYTHON) if OWN_PYTHON.is_file() else None)
    if python is None:
        raise InputError(
            f"bench vllm needs a vLLM: {VARIABLE} names its Python (make test-vllm builds"
            f" {OWN_PYTHON})"
        )
    for policy in size.vllm_policies:
        if policy not in POLICIES:
            raise InputError(f"unknown policy {policy!r}: one of {', '.join(POLICIES)}")
    if STOCK not in size.vllm_policies:
        raise InputError(f"every policy is compared with {STOCK!r}, which is missing")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rlkv-")))
        return _Bench(python, folder, size, say, stack).measure()


class _Bench:
    def __init__(self, python: str, folder: Path, size: Size, say: Say, stack: ExitStack) -> None:
        self._python, self._folder, self._size = python, folder, size
        self._say, self._stack = say, stack
        self._memory = Memory.of(size)
        self._sidecar: SidecarProcess | None = None
        self._model = folder / "model"
        write_model_folder(self._model, size.vllm_shape, max_tokens=self._max_tokens)

    def measure(self) -> dict[str, Any]:
        size = self._size
        self._say("starting stock vLLM")
        stock = self._start(STOCK, None).wait()
        # Before there is anything else on the machine.
        costs = measure_costs(stock, size)
        load = Load.of(costs, self._memory, size)
        others = [policy for policy in size.vllm_policies if policy != STOCK]
        self._say(f"starting {', '.join(others)}")
        started = {policy: self._start(policy, load) for policy in others}
        servers = {STOCK: stock} | {name: server.wait() for name, server in started.items()}

        runs, working_set = self._runs(servers, load)
        against = runs[STOCK]
        policies = {
            policy: {"what": POLICIES[policy], **compared(runs[policy], against)}
            for policy in size.vllm_policies
        }
        for policy, server in servers.items():
            policies[policy] |= _counted(server)
        version = str(stock.client.get("/version").json()["version"])
        figures = _figures(policies)
        ratios = self._pace_figures(servers) | self._admission_figures(servers)
        figures |= {name: ratio for name, (ratio, _) in ratios.items()}
        return {
            "figures": figures,
            "measured_on": {
                "vllm": version,
                "model": "random weights, fp32",
                "shape": dict(size.vllm_shape),
                "workload": load.workload.description,
                "policies": policies,
                "ci95": {
                    name: interval and list(interval) for name, (_, interval) in ratios.items()
                },
                "num_runs": size.vllm_runs,
                **self._conditions(costs, load, working_set),
            },
        }

    @property
    def _max_tokens(self) -> int:
        return -(-self._size.vllm_context_tokens // BLOCK_SIZE) * BLOCK_SIZE + BLOCK_SIZE

    def _start(self, policy: str, load: Load | None) -> VllmServer:
        config = None if load is None else connector(policy, **self._settings(policy, load))
        server = VllmServer(
            self._python,
            self._model,
            self._folder / f"{policy}.log",
            num_blocks=self._memory.num_blocks + 1,
            max_tokens=self._max_tokens,
            connector=config,
        )
        return self._stack.enter_context(server)

    def _settings(self, policy: str, load: Load) -> Mapping[str, Any]:
        if policy == "ttl":
            return {"ttl_s": _TTL_PAUSES * load.mean_pause_s}
        settings: dict[str, Any] = {}
        if policy in ("rule", "sidecar"):
            settings["host_gib"] = self._host_bytes / 2**30
        if policy == "sidecar":
            self._sidecar = self._stack.enter_context(SidecarProcess())
            settings |= {"redis": self._sidecar.url, "engine_id": "bench"}
        return settings

    @property
    def _host_bytes(self) -> int:
        shape = {key: int(value) for key, value in self._size.vllm_shape.items()}
        head_dim = shape["hidden_size"] // shape["num_attention_heads"]
        per_token = 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * head_dim
        blocks = _HOST_OVER_DEVICE * self._memory.num_blocks
        return blocks * BLOCK_SIZE * per_token * _FP32_BYTES

    def _runs(
        self, servers: Mapping[str, VllmServer], load: Load
    ) -> tuple[dict[str, list[dict[str, float]]], float]:
        random = np.random.default_rng(0)
        runs: dict[str, list[dict[str, float]]] = {policy: [] for policy in servers}
        working_sets = []
        for seed in range(self._size.vllm_runs):
            order = list(servers)
            random.shuffle(order)
            for policy in order:
                sessions = load.sessions(seed)
                self._say(
                    f"run {seed + 1} of {self._size.vllm_runs}: {policy},"
                    f" {sum(session.num_turns for session in sessions)} requests"
                )
                played = play(servers[policy].url, sessions)
                runs[policy].append(run_figures(played))
                if policy == STOCK:
                    working_sets.append(working_set_ratio(played, self._memory.num_blocks))
        return runs, float(np.mean(working_sets))

    def _pace_figures(
        self, servers: Mapping[str, VllmServer]
    ) -> dict[str, tuple[float, Interval | None]]:
        # With the local rule the plug-in does the same and asks nobody: that is "none".
        if self._sidecar is None or "rule" not in servers:
            return {}
        self._say("the pace of decoding with a stopped sidecar")
        self._sidecar.suspend()
        decodings = decode({name: servers[name] for name in (STOCK, "rule", "sidecar")}, self._size)
        self._sidecar.resume()
        stock, none, stopped = (decodings[name] for name in (STOCK, "rule", "sidecar"))
        return {
            "pace_stopped_over_none": ratio_interval(none.took_s, stopped.took_s),
            "pace_plugin_over_stock": ratio_interval(stock.took_s, none.took_s),
            "plugin_share_stopped": (stopped.plugin_share, None),
            "plugin_share_none": (none.plugin_share, None),
        }

    def _admission_figures(
        self, servers: Mapping[str, VllmServer]
    ) -> dict[str, tuple[float, Interval | None]]:
        if "rule" not in servers:
            return {}
        self._say("a large request beside preserved sessions")
        ratio = admissions(servers["rule"], self._memory.num_blocks, self._max_tokens, self._size)
        return {"admission_over_empty": ratio}

    def _conditions(self, costs: Costs, load: Load, working_set: float) -> dict[str, Any]:
        return {
            "num_device_blocks": self._memory.num_blocks,
            "num_host_blocks": _HOST_OVER_DEVICE * self._memory.num_blocks,
            "block_size": BLOCK_SIZE,
            "working_set_over_pool": working_set,
            "mean_context_tokens": self._memory.mean_context_tokens,
            "mean_pause_s": load.mean_pause_s,
            "ttl_s": _TTL_PAUSES * load.mean_pause_s,
            "prefill_token_s": costs.prefill_token_s,
            "decode_token_s": costs.decode_token_s,
            "num_agents": load.num_agents,
            "agents_per_s": load.agents_per_s,
            "num_strangers": load.num_strangers,
            "strangers_per_s": load.strangers_per_s,
            "tools": "named in the requests: random weights call none",
            "sidecar": None if self._sidecar is None else self._sidecar.policy,
        }


def _counted(server: VllmServer) -> dict[str, Any]:
    # Of all runs together. Decisions by verb and by who gave them.
    return {
        "num_preemptions": server.metric("vllm:num_preemptions_total"),
        "decisions": server.metric_by("rlkv_decisions_total", "verb", "source"),
        "events": server.metric_by("rlkv_events_total", "event"),
    }


def _figures(policies: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    figures = {}
    for policy, measured in policies.items():
        for figure in ("cached_share", *TIMES):
            figures[f"{figure}_{policy}"] = measured[figure]["mean"]
            if figure != "cached_share" and policy != STOCK:
                figures[f"{figure}_{policy}_over_lru"] = measured[figure]["over_lru"]
    return figures
