"""Who is compared in the suite: rules tuned for each scenario, rules as they are, and bundles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlkv_agents.bundle import load_bundle
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import RULES, make_rule
from rlkv_engine.errors import InputError

#: Every other policy's latency is given as a multiple of this rule's, tuned for the scenario.
REFERENCE = "house"
#: A rule with its plain constants, the same in every scenario.
FIXED = "fixed"
#: Every rule, and the reference with its plain constants.
ALL = (*RULES, f"{REFERENCE}:{FIXED}")


@dataclass(frozen=True, slots=True)
class Contestant:
    """A policy of the comparison; without ``policy``, the rule of this name is tuned first."""

    name: str
    policy: AgentPolicy | None = None
    is_learned: bool = False


def contestant(text: str) -> Contestant:
    """A rule from its name.

    ``house`` is tuned for each scenario, ``house:fixed`` has its plain constants everywhere, and
    ``house:guard_pauses=2+swap_ratio=1`` these and the plain ones else.

    Raises:
        InputError: unknown rule or constant, or a constant that is no number.
    """
    name, colon, said = text.partition(":")
    if not colon:
        make_rule(name)
        return Contestant(name)
    constants = {}
    for each in said.split("+") if said != FIXED else ():
        key, _, value = each.partition("=")
        try:
            constants[key] = float(value)
        except ValueError:
            raise InputError(
                f"policy {text!r}: {each!r} is not {FIXED!r} and not a constant like slack_ratio=0"
            ) from None
    return Contestant(text, AgentPolicy(text, make_rule(name, constants)))


def learned_contestants(folders: Sequence[Path]) -> list[Contestant]:
    """Bundles under their own names, or with their folders where two have the same.

    Raises:
        InputError: not a bundle, or one that is named twice.
    """
    policies = [load_bundle(folder).policy for folder in folders]
    own = [policy.name for policy in policies]
    names = [
        f"{name}:{folder}" if own.count(name) > 1 or name in RULES else name
        for name, folder in zip(own, folders, strict=True)
    ]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"bundle {name!r} is named twice")
    return [
        Contestant(name, replace(policy, name=name), is_learned=True)
        for name, policy in zip(names, policies, strict=True)
    ]


def contestants(said: str, bundles: Sequence[Path] = ()) -> list[Contestant]:
    """Those of ``--policies`` (names with commas, or ``all``) and of ``--bundle``, each once.

    The tuned reference is always among them.

    Raises:
        InputError: see ``contestant`` and ``learned_contestants``.
    """
    names = [name.strip() for name in said.split(",")] if said != "all" else list(ALL)
    rules = [contestant(name) for name in dict.fromkeys([REFERENCE, *names])]
    return [*rules, *learned_contestants(bundles)]
