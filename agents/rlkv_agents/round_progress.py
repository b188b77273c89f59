"""A progress bar for learners whose callbacks are called once a round, not once a step."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.type_aliases import MaybeCallback


class RoundProgress(BaseCallback):
    """Shows the time steps done of those that were asked for."""

    def __init__(self) -> None:
        super().__init__()
        columns = (TextColumn("learn"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns)

    @classmethod
    def beside(cls, callback: MaybeCallback) -> CallbackList:
        """This callback behind those of the user."""
        if isinstance(callback, list):
            callback = CallbackList(callback)
        if not isinstance(callback, BaseCallback):
            callback = ConvertCallback(callback)
        return CallbackList([callback, cls()])

    def _on_training_start(self) -> None:
        first = self.model._num_timesteps_at_start
        self._task = self._bar.add_task("learn", total=self.model._total_timesteps - first)
        self._bar.start()

    def _on_step(self) -> bool:
        done = self.model.num_timesteps - self.model._num_timesteps_at_start
        self._bar.update(self._task, completed=done)
        return True

    def _on_training_end(self) -> None:
        self._bar.stop()
