"""How long pauses last, learnt while they happen; its state lives in Redis."""

from __future__ import annotations

from rlkv_service.pauses.follower import OutcomeFollower as OutcomeFollower
from rlkv_service.pauses.online_pauses import OnlinePauses as OnlinePauses
from rlkv_service.pauses.online_pauses import PauseWeights as PauseWeights
