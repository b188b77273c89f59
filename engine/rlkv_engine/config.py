"""How an engine schedules, beside what its profile says it costs."""

from __future__ import annotations

from dataclasses import dataclass

from rlkv_engine.errors import InputError


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Switches of the scheduler (docs/scheduler.md); the defaults are what rlkv ships.

    Those of the scheduler are comparison modes: they rebuild the engines that published results
    were measured on, or show what a mechanism is worth.
    """

    #: An offer asks for so much more than is missing, as a share of the device pool; None: as much
    #: as the rule says.
    slack_ratio: float | None = None
    #: Copies run beside compute; off: the engine waits for them.
    overlap_swap: bool = True
    #: Prompts are computed in chunks under the token budget; off: whole, in one iteration.
    chunked_prefill: bool = True
    #: A session that returns queues behind the new ones; off: it keeps its original place.
    requeue_to_tail: bool = False
    #: Discarded blocks stay usable until they are overwritten; off: they are gone at once.
    reuse_discarded: bool = True
    #: A full host drops the copy whose owner is expected back last; off: it takes no more copies.
    host_victims: bool = True
    #: CALLs are asked of the policy; off: the rule answers them.
    ask_call: bool = True

    def __post_init__(self) -> None:
        """Raises ``InputError`` for a slack outside [0, 1]."""
        if self.slack_ratio is not None and not 0.0 <= self.slack_ratio <= 1.0:
            raise InputError(f"slack_ratio must be between 0 and 1 (got {self.slack_ratio})")
