"""What every mapping is made from: one verdict, and the session that pauses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlkv_service.columns import VerdictRows
from rlkv_service.schema import Verb


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One row of ``VerdictRows``; see ``schema.Verdicts`` for the units."""

    verb: Verb
    lease_s: float = float("inf")  #: for how long PRESERVE is promised; infinite without an end
    soft_priority: int = 50  #: 0 (take first) to 100
    expected_return_p50_s: float = float("nan")  #: from now; NaN where nobody knows
    expected_return_p90_s: float = float("nan")


def verdict_at(rows: VerdictRows, row: int) -> Verdict:
    """The verdict of one row."""
    return Verdict(
        verb=Verb(rows.verb[row]),
        # Through the text of float32: 0.1 stays 0.1 on the wire.
        lease_s=float(str(rows.lease_s[row])),
        soft_priority=int(rows.soft_priority[row]),
        expected_return_p50_s=float(str(rows.expected_return_p50_s[row])),
        expected_return_p90_s=float(str(rows.expected_return_p90_s[row])),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A session, and what was decided for its pause."""

    session: str
    #: None: nothing was decided, and only the session is named to the engine.
    verdict: Verdict | None = None
    turn: int | None = None  #: that ends with the pause, counted from 0
    tool: str = ""  #: that it waits for; empty where nobody knows yet
    parent_session: str = ""  #: of a sub-agent
    prompt_tokens: int | None = None  #: of this turn
    context_tokens: int | None = None  #: when the pause begins: the prompt and what was generated
    #: At the start of the context, that other sessions have too; None: nobody knows.
    shared_tokens: int | None = None
    #: Of the context; LMCache's calls know KV by its tokens alone.
    token_ids: Sequence[int] = ()
    ends: bool = False  #: the session does not come back


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a mapping has to know of the server, where the requests do not say it."""

    model: str = ""
    world_size: int = 1  #: ranks that hold the KV of one token, LMCache's word
    instance_id: str = ""  #: LMCache's name of the node
    cache_salt: str = ""
    #: Whether LMCache's pins are used: they have no end of their own, so whoever makes the calls
    #: must live to make the last one.
    pins: bool = False
