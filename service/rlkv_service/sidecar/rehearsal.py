"""One request before the first: what is compiled, or read from the disk, at first use is, then."""

from __future__ import annotations

from rlkv_engine.estimates import MIN_CALLS
from rlkv_service.columns import request_of
from rlkv_service.deciding.active_bundle import ActiveBundle
from rlkv_service.deciding.check_rows import made_up_rows
from rlkv_service.deciding.decider import Decider
from rlkv_service.pauses import OnlinePauses
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.redis_url import RedisURL
from rlkv_service.schema import encode
from rlkv_service.sidecar.queue_loop import QueueLoop
from rlkv_service.sidecar.service import DecisionService


def rehearse(bundle: ActiveBundle, url: RedisURL, keys: RedisKeys) -> None:
    """Decides made-up rows as if they had come by the queue, and tells nobody of it.

    With pauses that were seen already: an engine's first outcome must not make its next request
    late. What a network has to do is done where a bundle is checked.
    """
    pauses, rows = OnlinePauses(), made_up_rows()
    for at_ms in range(MIN_CALLS):
        pauses.add("", rows.sessions[0], rows.tools[0], 1.0, at_ms)
    loop = QueueLoop(DecisionService(Decider(bundle, pauses), url, keys, pauses))
    loop.rehearse(encode(request_of(rows, "", 1, reply_to=keys.answers("nobody"))))
