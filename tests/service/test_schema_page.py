from __future__ import annotations

from pathlib import Path

import pytest

from rlkv_engine.facts import FACTS
from rlkv_service import schema

PAGE = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")


def test_the_page_has_every_fact_with_its_unit_and_what_stands_for_it() -> None:
    for fact in FACTS:
        without = (
            "needed"
            if fact.default is None
            else "estimated"
            if fact.default != fact.default
            else f"{fact.default:g}"
        )
        assert f"| `{fact.name}` | {fact.unit or '-'} | {fact.meaning} | {without} |" in PAGE


def test_the_page_has_every_reason_and_verb() -> None:
    for reason in schema.Reason:
        assert f"| {reason.value} {reason.name} |" in PAGE
    for verb in schema.Verb:
        assert f"{verb.value} {verb.name}" in PAGE
    assert f"Version {schema.SCHEMA_VERSION}." in PAGE


@pytest.mark.parametrize(
    "message",
    [
        schema.DecisionRequest,
        schema.Verdicts,
        schema.Refusal,
        schema.Outcome,
        schema.SessionEnd,
    ],
)
def test_the_page_has_every_field(message: type[schema.Message]) -> None:
    (line,) = (
        line
        for line in PAGE.splitlines()
        if line.startswith(f"| `{message.__struct_config__.tag}`")
    )
    for field in message.__struct_fields__:
        assert f"`{field}`" in line
