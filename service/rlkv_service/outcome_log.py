"""What came of pauses goes into a stream, once each, whoever says it and however often."""

from __future__ import annotations

from collections.abc import Sequence

from rlkv_service.redis_errors import RedisError, RedisReplyError
from rlkv_service.redis_keys import SEEN_EXPIRE_S, RedisKeys
from rlkv_service.resp import RespConnection
from rlkv_service.resp_parser import Reply, Word
from rlkv_service.schema import Outcome, SessionEnd, encode

#: Entries of the stream that are kept, about.
DEFAULT_MAX_OUTCOMES = 1_000_000

# One step, so that nothing is marked as seen and not written, and nothing written twice.
_RECORD = """
local new = {}
for i = 1, #ARGV - 2 do
  if redis.call('SET', KEYS[i + 1], '1', 'NX', 'EX', ARGV[1]) then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'm', ARGV[i + 2])
    new[i] = 1
  else
    new[i] = 0
  end
end
return new
"""


def record_outcomes(
    connection: RespConnection,
    keys: RedisKeys,
    messages: Sequence[Outcome | SessionEnd],
    *,
    max_outcomes: int = DEFAULT_MAX_OUTCOMES,
    deadline_s: float | None = None,
) -> list[bool]:
    """Writes outcomes and ends into the stream; when it returns the server has them.

    Safe to repeat: what is in the stream already is not written again.

    Returns:
        For each message whether it was new.

    Raises:
        RedisError: the server does not answer or has no room; all or nothing is in the stream, and
            repeating tells which.
    """
    if not messages:
        return []
    command = record_command(keys, messages, max_outcomes)
    return recorded(connection.execute(*command, deadline_s=deadline_s), len(messages))


def record_command(
    keys: RedisKeys,
    messages: Sequence[Outcome | SessionEnd],
    max_outcomes: int = DEFAULT_MAX_OUTCOMES,
) -> tuple[Word, ...]:
    """The command of ``record_outcomes``, for those who send it themselves."""
    seen = [
        keys.seen(
            message.engine_id,
            message.session,
            message.turn if isinstance(message, Outcome) else "end",
        )
        for message in messages
    ]
    return (
        "EVAL", _RECORD, 1 + len(seen), keys.outcomes, *seen,
        SEEN_EXPIRE_S, max_outcomes, *map(encode, messages),
    )  # fmt: skip


def recorded(reply: Reply, num: int) -> list[bool]:
    """For each of ``num`` messages whether it was new, by the reply to ``record_command``.

    Raises:
        RedisError: the server refused it, or this is no reply to it.
    """
    if isinstance(reply, RedisReplyError):
        raise reply
    if not isinstance(reply, list) or len(reply) != num or not all(e in (0, 1) for e in reply):
        raise RedisError(f"{num} outcomes were sent and the server says {str(reply)[:80]}")
    return [each == 1 for each in reply]
