"""The end of a session, from a path and its query."""

from __future__ import annotations

from starlette.datastructures import QueryParams

from rlkv_service.decision_api.problems import Problem
from rlkv_service.schema import MAX_NAME_LENGTH, SCHEMA_VERSION, SessionEnd


def read_end(session: str, query: QueryParams) -> SessionEnd:
    """The message that is logged.

    Raises:
        Problem: the query lacks the engine, or says what cannot be; it names the parameter.
    """
    engine_id = query.get("engine_id")
    if engine_id is None:
        raise Problem("field", "engine_id: is missing", pointer="?engine_id")
    for name, said in (("engine_id", engine_id), ("session", session)):
        if len(said) > MAX_NAME_LENGTH:
            reason = f"{name}: {len(said)} characters, at most {MAX_NAME_LENGTH}"
            raise Problem("field", reason, pointer=f"?{name}")
    return SessionEnd(
        SCHEMA_VERSION,
        engine_id,
        session,
        turn=_count(query, "turn"),
        input_tokens=_count(query, "input_tokens"),
        output_tokens=_count(query, "output_tokens"),
    )


def _count(query: QueryParams, name: str) -> int:
    said = query.get(name, "0")
    if not (said.isascii() and said.isdecimal() and len(said) <= 10 and int(said) < 2**31):
        raise Problem("field", f"{name}: {said[:40]!r} is not 0 to {2**31 - 1}", pointer=f"?{name}")
    return int(said)
