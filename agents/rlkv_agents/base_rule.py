"""What every rule has: a name, a source, constants that are tuned, and the engine's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import rule as R
from rlkv_engine.estimates import BY_TOOL, PauseTable
from rlkv_engine.profile import Profile
from rlkv_engine.state import DISCARD, PRESERVE


@dataclass(frozen=True, slots=True)
class Rule:
    """Base of all rules: keep everything, take by expected remaining pause, discard what is taken.

    ``params`` turns the fields into the vector that the compiled loop reads. When memory is short
    every rule asks for ``slack_ratio`` of the device pool more than is missing.
    """

    name: ClassVar[str] = ""
    source: ClassVar[str] = ""
    #: True: uses what nobody can know; a reference point, not a competitor.
    sees_future: ClassVar[bool] = False
    #: Constants that `rlkv tune` varies: field -> values, in units of the workload where named so.
    grid: ClassVar[Mapping[str, Sequence[float]]] = {"slack_ratio": (0.0, 0.003, 0.012)}
    slack_ratio: float = field(default=0.003, kw_only=True)

    def params(self, table: PauseTable) -> NDArray[np.float64]:
        """The rule's numbers, shape ``[RULE_SIZE]``."""
        return self._vector(table, order=R.ORDER_REMAINING)

    def leases(self, profile: Profile, table: PauseTable) -> NDArray[np.float64] | None:
        """Leases by row of ``table`` in seconds, for rules that grant them."""
        return None

    def _vector(
        self,
        table: PauseTable,
        *,
        order: int,
        estimate: int = BY_TOOL,
        call: int = PRESERVE,
        new: int = DISCARD,
        resume: int = DISCARD,
        grow: int = DISCARD,
        swap_ratio: float = 0.0,
        guard_pauses: float = 0.0,
        eager: bool = False,
    ) -> NDArray[np.float64]:
        params = np.zeros(R.RULE_SIZE)
        params[R.ORDER] = order
        params[R.ESTIMATE] = estimate
        params[R.CALL_VERB] = call
        params[R.NEW_VERB] = new
        params[R.RESUME_VERB] = resume
        params[R.GROW_VERB] = grow
        params[R.SWAP_RATIO] = swap_ratio
        params[R.GUARD_S] = guard_pauses * table.mean_pause_s
        params[R.EAGER] = eager
        params[R.SLACK_RATIO] = self.slack_ratio
        return params
