"""``rlkv/KVMemory-v0``: one engine, one decision a step."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import gymnasium
import numpy as np
from numpy.typing import NDArray

from rlkv_engine import state as S
from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.engine_stack import EngineStack
from rlkv_envs.episode_metrics import episode_metrics
from rlkv_envs.observation import action_space, observation_space
from rlkv_envs.render import RENDER_MODES, render
from rlkv_envs.env_settings import EnvOptions, make_settings
from rlkv_envs.stepping import TERMS

#: Traces without a decision that a reset may draw in a row before it gives up.
MAX_DRAWS = 100


class KVMemoryEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """DOC."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": list(RENDER_MODES), "render_fps": 8}

    def __init__(
        self, *, render_mode: str | None = None, **options: Unpack[EnvOptions]
    ) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise InputError(
                f"render_mode must be one of {', '.join(RENDER_MODES)}, got {render_mode!r}"
            )
        self.render_mode = render_mode
        self.scenario = make_settings(options)
        self.observation_space = observation_space()
        self.action_space = action_space()
        self._stack: EngineStack | None = None

    @property
    def trace(self) -> Trace:
        """The trace of this episode."""
        return self._started().traces[0]

    @property
    def reference_total_cost(self) -> float:
        """Cost of the reference rule over the whole trace, s/token summed over sessions."""
        return float(self._started().reference_total[0])

    @property
    def reward_unit(self) -> float:
        """Cost in one unit of reward, s/token: the reference cost per decision of the trace."""
        return float(self._started().reference.unit[0])

    @property
    def dt_s(self) -> float:
        """Seconds between the last two decisions."""
        return float(self._started().steps.delta[0, 0])

    def action_masks(self) -> NDArray[np.bool_]:
        """True where an action is legal, shape ``[3]``."""
        mask: NDArray[np.bool_] = self._started().steps.mask[0].copy()
        return mask

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Runs a new trace to its first decision.

        Args:
            seed: of the trace; None goes on with the environment's own random stream.
            options: ``{"trace": Trace}`` runs a given trace instead.

        Raises:
            InputError: nothing is ever decided in this trace, or in 100 drawn ones.
        """
        super().reset(seed=seed)
        given = (options or {}).get("trace")
        for _ in range(1 if given is not None else MAX_DRAWS):
            trace = given
            if trace is None:
                trace = self.scenario.trace(int(self.np_random.integers(2**31 - 1)))
            self._stack = EngineStack(self.scenario, [trace], 1)
            self._stack.start(0, 0)
            if not self._stack.run():
                return self._observation(), self._info()
        raise InputError("nothing is ever decided: memory never runs short and ask_call is off")

    def step(
        self, action: np.int64 | int
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Answers the open decision and runs to the next."""
        stack = self._started()
        steps = stack.steps
        stack.step(np.array([action], np.int64))
        terminated, truncated = bool(steps.terminated[0]), bool(steps.truncated[0])
        info = self._info()
        if terminated or truncated:
            info |= episode_metrics(stack.state, 0, stack.traces[0])
        return self._observation(), float(steps.reward[0]), terminated, truncated, info

    def render(self) -> Any:
        """The pools as text (``ansi``) or as a picture (``rgb_array``)."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render_mode")
            return None
        return render(self.render_mode, self._started().state, 0)

    def _started(self) -> EngineStack:
        if self._stack is None:
            raise RuntimeError("call reset first")
        return self._stack

    def _observation(self) -> NDArray[np.float32]:
        observation: NDArray[np.float32] = self._started().steps.observation[0].copy()
        return observation

    def _info(self) -> dict[str, Any]:
        stack = self._started()
        info: dict[str, Any] = dict(zip(TERMS, stack.steps.delta[0].tolist(), strict=True))
        info["now_s"] = float(stack.state.f[0, S.NOW])
        info["point"] = int(stack.state.n[0, S.DECISION_POINT])
        info["action_mask"] = self.action_masks()
        info["illegal_swaps"] = int(stack.steps.illegal[0])
        return info
