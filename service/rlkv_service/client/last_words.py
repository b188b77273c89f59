"""What is left of outcomes when a client closes."""

from __future__ import annotations

import time

from rlkv_service.client.client_state import ClientState
from rlkv_service.client.timeouts import CONNECT_TIMEOUT_S
from rlkv_service.outcome_log import record_outcomes
from rlkv_service.redis_errors import RedisError
from rlkv_service.resp import RespConnection


def write_the_rest(state: ClientState) -> None:
    """Tries once, on a connection of its own, within ``CONNECT_TIMEOUT_S`` for each step."""
    address, outbox = state.address, state.outbox
    if not len(outbox):
        return
    try:
        with RespConnection(address.url, CONNECT_TIMEOUT_S) as connection:
            deadline_s = time.monotonic() + CONNECT_TIMEOUT_S
            while messages := outbox.begin():
                record_outcomes(connection, address.keys, messages, deadline_s=deadline_s)
                outbox.written()
    except RedisError as error:
        state.tally.error(error)
