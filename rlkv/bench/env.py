"""How fast the vector environment steps, beside one that does nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rlkv.bench.measure import Size, median_cpu_s
from rlkv_envs.observation import action_space, observation_space
from rlkv_envs.scenario import load_scenario
from rlkv_envs.vector import KVMemoryVectorEnv

SCENARIO = "crossover-slow"


def env(size: Size) -> dict[str, Any]:
    """Decisions/s through Gymnasium's vector API with random legal actions."""
    figures: dict[str, float] = {}
    for num_envs in size.num_envs:
        scenario = load_scenario(SCENARIO).with_sessions(size.train_sessions)
        ours = KVMemoryVectorEnv(num_envs, num_traces=16, scenario=scenario)
        # As in training: a rule answers the calls, and more of the simulation lies between steps.
        revisits = KVMemoryVectorEnv(num_envs, num_traces=16, scenario=scenario, ask_call=False)
        decisions = num_envs * size.env_steps
        stepped: KVMemoryVectorEnv | TrivialVectorEnv
        for name, stepped in (
            ("decisions_per_s", ours),
            ("decisions_per_s_revisits_only", revisits),
            ("trivial_steps_per_s", TrivialVectorEnv(num_envs)),
        ):
            stepped.reset(seed=0)
            run = partial(_steps, stepped, size.env_steps)
            seconds = median_cpu_s(run, size.repetitions)
            figures[f"{name}_{num_envs}"] = decisions / seconds
        figures[f"decisions_over_trivial_steps_{num_envs}"] = (
            figures[f"decisions_per_s_{num_envs}"] / figures[f"trivial_steps_per_s_{num_envs}"]
        )
    return {
        "figures": figures,
        "measured_on": {
            "scenario": SCENARIO,
            "sessions_per_episode": size.train_sessions,
            "steps": size.env_steps,
            "repetitions": size.repetitions,
            "actions": "random legal ones, drawn inside the measured loop for both",
        },
    }


class TrivialVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.int64], NDArray[Any]]):
    """The same spaces and masks; a step returns zeros. The yardstick of a Python step."""

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.single_observation_space = observation_space()
        self.single_action_space = action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        shape = self.single_observation_space.shape
        assert shape is not None
        self._observation = np.zeros((num_envs, *shape), np.float32)

    def action_masks(self) -> NDArray[np.bool_]:
        """Everything is legal, shape ``[num_envs, 3]``."""
        return np.ones((self.num_envs, 3), np.bool_)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Zeros."""
        return self._observation.copy(), {}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[
        NDArray[np.float32],
        NDArray[np.float64],
        NDArray[np.bool_],
        NDArray[np.bool_],
        dict[str, Any],
    ]:
        """Zeros; nothing ever ends."""
        never = np.zeros(self.num_envs, np.bool_)
        return self._observation.copy(), np.zeros(self.num_envs), never, never.copy(), {}


def _steps(stepped: KVMemoryVectorEnv | TrivialVectorEnv, num_steps: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(num_steps):
        # The largest of random numbers among the legal: uniform over legal actions.
        scores = rng.random((stepped.num_envs, 3)) * stepped.action_masks()
        stepped.step(scores.argmax(axis=1))
