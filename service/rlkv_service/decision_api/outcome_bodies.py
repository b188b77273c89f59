"""Outcomes as JSON: what came of pauses."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from rlkv_service.decision_api.json_bodies import Tokens, Turn, Version, decode_json
from rlkv_service.decision_api.problems import Problem
from rlkv_service.schema import MAX_ROWS, SCHEMA_VERSION, Name, Outcome, Verb

Seconds = Annotated[float, Meta(extra_json_schema={"minimum": 0, "maximum": 1e10})]
#: Three centuries: durations and moments beyond are mistakes.
_MAX_S = 1e10
_SECONDS = ("pause_s", "delay_s", "started_s", "ended_s")


class OutcomeRow(msgspec.Struct):
    """What came of one pause; sent again it counts once."""

    session: Name
    turn: Turn
    tool: Name
    pause_s: Annotated[Seconds, Meta(description="How long it took, s.")]
    context_tokens: Annotated[Tokens, Meta(description="When the pause began.")]
    input_tokens: Annotated[Tokens, Meta(description="Of this turn's prompt.")] = 0
    output_tokens: Annotated[Tokens, Meta(description="Generated in this turn.")] = 0
    new_tokens: Annotated[Tokens, Meta(description="That the tool's answer added.")] = 0
    reused_device_tokens: Annotated[Tokens, Meta(description="Found on the device.")] = 0
    reused_host_tokens: Annotated[Tokens, Meta(description="Copied in.")] = 0
    recomputed_tokens: Annotated[Tokens, Meta(description="Computed again.")] = 0
    delay_s: Annotated[Seconds, Meta(description="Return of the tool to the next token, s.")] = 0.0
    verb: Annotated[
        Literal["PRESERVE", "SWAP", "DISCARD"] | None,
        Meta(description="What was decided last; null: nobody asked."),
    ] = None
    policy_version: Name = ""
    started_s: Annotated[
        Seconds, Meta(description="When the session arrived, s since the epoch.")
    ] = 0.0
    ended_s: Annotated[Seconds, Meta(description="When the pause was over, s since the epoch.")] = (
        0.0
    )


class OutcomesBody(msgspec.Struct):
    """Outcomes of one engine."""

    engine_id: Name
    outcomes: Annotated[list[OutcomeRow], Meta(min_length=1, max_length=MAX_ROWS)]
    v: Version = SCHEMA_VERSION


class RecordedBody(msgspec.Struct):
    """What is in the log now."""

    accepted: Annotated[int, Meta(description="Outcomes that the log has.")]
    new: Annotated[int, Meta(description="Of these, the ones that it had not before.")]


class EndedBody(msgspec.Struct):
    """A session has ended."""

    session: str
    engine_id: str
    new: Annotated[bool, Meta(description="False: it had ended before.")]


class PolicyBody(msgspec.Struct):
    """The bundle that decides."""

    name: str
    version: str
    loaded_s: Annotated[float, Meta(description="When, s since the epoch.")]
    shadow: Annotated[bool, Meta(description="It only watches, and the rule decides.")]
    min_confidence: Annotated[float, Meta(description="Below, the rule answers.")]
    metadata: Annotated[dict[str, msgspec.Raw], Meta(description="What the bundle says.")]


_decoder = msgspec.json.Decoder(OutcomesBody)


def read_outcomes(body: bytes) -> list[Outcome]:
    """The outcomes as they are logged.

    Raises:
        Problem: the body cannot be read, or says what cannot be; it names the field.
    """
    asked = decode_json(_decoder, body)
    for i, row in enumerate(asked.outcomes):
        for name in _SECONDS:
            value = getattr(row, name)
            if not 0.0 <= value <= _MAX_S:
                place = f"outcomes/{i}/{name}"
                raise Problem("field", f"{place}: cannot be {value:g}", pointer=f"#/{place}")
    return [_outcome(asked.engine_id, row) for row in asked.outcomes]


def _outcome(engine_id: str, row: OutcomeRow) -> Outcome:
    told = msgspec.structs.asdict(row)
    told["verb"] = -1 if row.verb is None else int(Verb[row.verb])
    return Outcome(v=SCHEMA_VERSION, engine_id=engine_id, **told)
