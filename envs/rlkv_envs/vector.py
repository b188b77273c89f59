"""``KVMemoryVectorEnv``: many KVMemory environments stepped in one compiled call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rlkv_engine import state as S
from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.engine_stack import MAX_DRAWS, EngineStack
from rlkv_envs.env_settings import EnvOptions, make_settings
from rlkv_envs.metrics import measure
from rlkv_envs.observation import action_space, observation_space
from rlkv_envs.stepping import ELAPSED, TERMS

Observations = NDArray[np.float32]
Actions = NDArray[np.int64]


class KVMemoryVectorEnv(VectorEnv[Observations, Actions, NDArray[Any]]):
    """Vector version of ``KVMemoryEnv``: same observations, actions, rewards and terms.

    Episodes run over a bank of traces on which the reference rule has run once; each new episode of
    sub-environment ``i`` draws a trace of the bank from its own random stream. The bank is drawn
    again only when ``reset`` is given a seed.

    Autoreset is ``SAME_STEP``: where an episode ends, the observation returned is the first of the
    next one, ``infos["final_obs"]`` has the last of the old one and ``infos["final_info"]`` its
    terms and metrics. ``infos`` holds arrays over sub-environments for every term of
    ``stepping.TERMS``, and ``now_s``, ``point``, ``action_mask`` and ``illegal_swaps``.

    Args:
        num_envs: sub-environments.
        num_traces: size of the bank that ``reset(seed=...)`` draws.
        traces: the bank itself; then nothing is drawn but who gets which.
        render_mode: None only.
        options: as for ``KVMemoryEnv``.
    """

    metadata = {  # noqa: RUF012
        "render_modes": [],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        num_traces: int = 32,
        traces: Sequence[Trace] | None = None,
        render_mode: None = None,
        **options: Unpack[EnvOptions],
    ) -> None:
        if num_envs < 1 or num_traces < 1:
            raise InputError(
                f"num_envs and num_traces must be 1 or more, got {num_envs} and {num_traces}"
            )
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.settings = make_settings(options)
        self.single_observation_space = observation_space()
        self.single_action_space = action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._num_traces = num_traces
        self._given = traces
        self._stack: EngineStack | None = None
        self._streams: list[np.random.Generator] = []
        self._delta: NDArray[np.float64] = np.zeros((num_envs, len(TERMS)))

    @property
    def dt_s(self) -> NDArray[np.float64]:
        """Seconds between the last two decisions of each engine, shape ``[num_envs]``."""
        return self._delta[:, ELAPSED]

    @property
    def trace_index(self) -> NDArray[np.int64]:
        """Which trace of the bank each engine is on, shape ``[num_envs]``."""
        return self._started().steps.trace.copy()

    @property
    def traces(self) -> Sequence[Trace]:
        """The bank."""
        return self._started().traces

    def action_masks(self) -> NDArray[np.bool_]:
        """True where an action is legal, shape ``[num_envs, 3]``."""
        return self._started().steps.mask.copy()

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observations, dict[str, Any]]:
        """Starts every episode anew.

        Args:
            seed: one number for bank and draws; None goes on with both.
            options: ``{"trace_index": [num_envs] indices}`` chooses the traces of this reset.
        """
        if isinstance(seed, list):
            raise InputError("seed must be one number: it is for the bank of traces too")
        super().reset(seed=seed)
        if self._stack is None or seed is not None:
            bank, draws = self.np_random.spawn(2)
            self._streams = draws.spawn(self.num_envs)
            if self._stack is None or self._given is None:
                self._stack = EngineStack(self.settings, self._bank(bank), self.num_envs)
        chosen = (options or {}).get("trace_index")
        self._start(range(self.num_envs), chosen)
        self._delta = np.zeros_like(self._delta)
        return self._stack.steps.observation.copy(), self._infos(self._delta)

    def step(
        self, actions: Actions
    ) -> tuple[
        Observations, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Answers every engine's decision and runs each to its next."""
        stack = self._started()
        steps = stack.steps
        stack.step(np.ascontiguousarray(actions, np.int64))
        self._delta = steps.delta.copy()
        terminated, truncated = steps.terminated.copy(), steps.truncated.copy()
        reward = steps.reward.copy()
        ended = np.flatnonzero(terminated | truncated)
        final: dict[str, Any] = {}
        if ended.size:
            infos = self._infos(self._delta)
            for i in ended.tolist():
                info = {key: value[i] for key, value in infos.items() if key[0] != "_"}
                info |= measure(S.one_engine(stack.state, i)).as_info()
                last = {"final_obs": steps.observation[i].copy(), "final_info": info}
                final = self._add_info(final, last, i)
            self._start(ended.tolist())
        return (
            steps.observation.copy(),
            reward,
            terminated,
            truncated,
            self._infos(self._delta) | final,
        )

    def _started(self) -> EngineStack:
        if self._stack is None:
            raise RuntimeError("call reset first")
        return self._stack

    def _bank(self, rng: np.random.Generator) -> list[Trace]:
        if self._given is not None:
            return list(self._given)
        seeds = rng.integers(2**31 - 1, size=self._num_traces)
        return [self.settings.trace(int(seed)) for seed in seeds]

    def _start(self, engines: Sequence[int], chosen: Sequence[int] | None = None) -> None:
        # New episodes; traces in which nothing is ever asked are drawn again.
        stack = self._started()
        for _ in range(MAX_DRAWS):
            for i in engines:
                drawn = int(self._streams[i].integers(len(stack.traces)))
                stack.start(i, drawn if chosen is None else int(chosen[i]))
            engines = stack.run()
            if not engines:
                return
        raise InputError(f"no decision in {MAX_DRAWS} traces: memory never runs short")

    def _infos(self, delta: NDArray[np.float64]) -> dict[str, Any]:
        stack = self._started()
        infos: dict[str, Any] = {name: delta[:, k] for k, name in enumerate(TERMS)}
        infos["now_s"] = stack.state.f[:, S.NOW].copy()
        infos["point"] = stack.state.n[:, S.DECISION_POINT].copy()
        infos["action_mask"] = stack.steps.mask.copy()
        infos["illegal_swaps"] = stack.steps.illegal.copy()
        every = np.ones(self.num_envs, np.bool_)
        return infos | {f"_{name}": every for name in infos}
