"""Who decides, and what is asked ahead: the sidecar, the local rule, or a fixed verb."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlkv_service.adapters.vllm.fact_rows import (
    Candidate,
    Machine,
    Moment,
    Need,
    fact_rows,
    with_own_estimates,
)
from rlkv_service.adapters.vllm.settings import Settings
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.local_rule import LOCAL_VERSION, LocalRule
from rlkv_service.schema import Verb


class Asker(Protocol):
    """Asks a sidecar, like ``client.EngineClient``: neither method waits."""

    def ask(self, rows: DecisionRows, tag: Any) -> bool:
        """Hands rows over; whether they are asked."""

    def collect(self) -> list[tuple[Any, VerdictRows]]:
        """Tags and verdicts that have come."""


#: As measured on real servers (`rlkv bench vllm`): copied when a pause begins, so that whoever
#: needs the room later does not wait for a copy.
RULE = LocalRule(guard_pauses=0.5, write_through=True)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done, and who said so."""

    verb: Verb
    lease_s: float
    source: str
    policy_version: str = ""


class Deciding:
    """Decides at once, by a fixed verb or by the rule, and asks the sidecar where there is one.

    Args:
        settings: of the plug-in.
        asker: of the sidecar; None: nobody is asked.
        rule: where no sidecar has answered.
    """

    def __init__(
        self, settings: Settings, asker: Asker | None, rule: LocalRule | None = None
    ) -> None:
        self._settings, self._asker = settings, asker
        self._rule = rule or RULE

    @property
    def is_fixed(self) -> bool:
        """Whether no facts are read."""
        return self._settings.policy not in ("rule", "sidecar")

    @property
    def asks(self) -> bool:
        """Whether a sidecar is asked."""
        return self._asker is not None

    def fixed(self) -> Verdict:
        """The verdict at every CALL, where it is always the same."""
        policy = self._settings.policy
        verb = Verb.PRESERVE if policy == "ttl" else Verb[policy.upper()]
        return Verdict(verb, self._settings.ttl_s, policy.upper())

    def at_call(
        self,
        machine: Machine,
        moment: Moment,
        candidate: Candidate,
        mean_pause_s: float | None,
        tag: Any,
    ) -> tuple[Verdict, bool]:
        """The rule's verdict about a pause that begins; and whether the sidecar was asked."""
        need = Need(0)
        rows = fact_rows(machine, moment, [candidate], [need])
        own = with_own_estimates(rows, [candidate], mean_pause_s)
        verb = Verb(int(self._rule.verbs(own.facts)[0]))
        asked = self._asker is not None and self._asker.ask(rows, tag)
        # As LocalRule.verdicts promises it: twice the expected remainder.
        return Verdict(verb, 2.0 * candidate.remaining_s, "RULE", LOCAL_VERSION), asked

    def rule_verbs(
        self,
        machine: Machine,
        moment: Moment,
        candidates: Sequence[Candidate],
        need: Need,
        mean_pause_s: float | None,
    ) -> list[Verb]:
        """What the rule says about each candidate of a REVISIT."""
        rows = fact_rows(machine, moment, candidates, [need] * len(candidates))
        facts = with_own_estimates(rows, candidates, mean_pause_s).facts
        return [Verb(int(verb)) for verb in self._rule.verbs(facts)]

    def ask_ahead(
        self,
        machine: Machine,
        moment: Moment,
        candidates: Sequence[Candidate],
        needs: Sequence[Need],
        tag: Any,
    ) -> bool:
        """Asks about every candidate, for each need; rows and tags candidate by candidate."""
        assert self._asker is not None
        each = [candidate for candidate in candidates for _ in needs]
        rows = fact_rows(machine, moment, each, list(needs) * len(candidates))
        return self._asker.ask(rows, tag)

    def collect(self) -> list[tuple[Any, VerdictRows]]:
        """Answers that have come."""
        return self._asker.collect() if self._asker is not None else []
