"""Frames from the queue, sorted into those to answer, those to refuse and those to drop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from rlkv_service.columns import DecisionRows, rows_of
from rlkv_service.deciding.decider import Asked
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.schema import (
    MAX_BYTES,
    MAX_NAME_LENGTH,
    SCHEMA_VERSION,
    DecisionRequest,
    Refusal,
    SchemaError,
    decode,
    encode,
)
from rlkv_service.sidecar.compiled_facts import read_facts

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Taken:
    """A request that is to be answered."""

    raw: bytes  #: as it travelled
    id: int
    reply_to: str
    asked: Asked


@dataclass(slots=True)
class RequestBatch:
    """What was taken from the queue at once."""

    taken: list[Taken] = field(default_factory=list)
    #: Refusals: where they go, and what they are.
    refused: list[tuple[str, bytes]] = field(default_factory=list)
    num_late: int = 0
    num_malformed: int = 0  #: nobody can be told


class _Sender(msgspec.Struct):
    """Who waits for an answer to a request, whatever else is wrong with it."""

    id: int
    reply_to: str


_sender_decoder = msgspec.msgpack.Decoder(_Sender)


def read_batch(frames: Sequence[bytes], keys: RedisKeys, now_s: float) -> RequestBatch:
    """Reads frames; whatever they are, none of them raises.

    Args:
        frames: from the queue.
        keys: answers go to keys of these alone.
        now_s: by the clock of the server.
    """
    batch = RequestBatch()
    for raw in frames:
        try:
            request = decode(raw, DecisionRequest)
            if not _is_answers_key(request.reply_to, keys):
                batch.num_malformed += 1
                continue
            # A deadline that is no number has passed.
            if request.deadline_s is not None and not now_s <= request.deadline_s:
                batch.num_late += 1
                continue
            rows: DecisionRows = rows_of(request, read_facts)
        except SchemaError as error:
            _refuse(batch, raw, str(error), keys)
            continue
        except Exception:  # a bug, and no reason to leave the others without an answer
            _logger.exception("a frame of %d bytes cannot be read", len(raw))
            batch.num_malformed += 1
            continue
        asked = Asked(request.engine_id, rows)
        batch.taken.append(Taken(raw, request.id, request.reply_to, asked))
    return batch


def _refuse(batch: RequestBatch, raw: bytes, reason: str, keys: RedisKeys) -> None:
    sender = None
    if len(raw) <= MAX_BYTES:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            sender = _sender_decoder.decode(raw)
    if sender is None or not _is_answers_key(sender.reply_to, keys):
        batch.num_malformed += 1
    else:
        refusal = encode(Refusal(SCHEMA_VERSION, sender.id, reason))
        batch.refused.append((sender.reply_to, refusal))


def _is_answers_key(name: str, keys: RedisKeys) -> bool:
    # Answers to any other key would let a frame write where it likes, into the queue for one.
    prefix = keys.answers("")
    return name.startswith(prefix) and len(prefix) < len(name) <= len(prefix) + MAX_NAME_LENGTH
