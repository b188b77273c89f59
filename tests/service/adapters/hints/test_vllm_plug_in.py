"""The plug-in reads what the mapping and the page say."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from rlkv_service.adapters.hints import BACKENDS, Pause, Served
from tests.service.adapters.hints.made_pauses import pauses

plug_in: Any = pytest.importorskip(
    "rlkv_service.adapters.vllm.hints", reason="there is no plug-in for vLLM here"
)
settings: Any = pytest.importorskip("rlkv_service.adapters.vllm.settings")
versions: Any = pytest.importorskip("rlkv_service.adapters.vllm.versions")

PAGE = (Path(__file__).parents[4] / "docs" / "use-with-vllm.md").read_text()


@given(pause=pauses())
def test_what_the_mapping_says_is_what_is_read(pause: Pause) -> None:
    hint = plug_in.read_hint(BACKENDS["vllm"](pause, Served()).fields["kv_transfer_params"])
    decided: Any = None if pause.ends else pause.verdict
    assert (hint.session, hint.turn, hint.tool) == (pause.session, pause.turn, pause.tool)
    assert (hint.ends, hint.verb) == (pause.ends, decided and decided.verb)


def test_the_settings_of_the_page_are_those_of_the_plug_in() -> None:
    rows = re.findall(r"^\| (`[^|]*`) \| ", PAGE, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
    assert {field.name for field in dataclasses.fields(settings.Settings)} <= named
    for version in versions.TESTED_VERSIONS:
        assert f"vLLM {version}" in PAGE
