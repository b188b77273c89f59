from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rlkv_engine.errors import InputError
from rlkv_service.adapters.vllm.hints import NOTHING, Hint, read_hint
from rlkv_service.adapters.vllm.settings import Settings
from rlkv_service.adapters.vllm.versions import TESTED_VERSIONS, is_tested
from rlkv_service.schema import Verb


def test_settings_are_read() -> None:
    settings = Settings.of({"redis": "redis://host:1", "host_gib": 2, "prefill_token_s": None})
    assert settings.policy == "sidecar" and settings.host_gib == 2
    assert Settings.of({}).policy == "rule"


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"polcy": "rule"}, "no setting 'polcy'"),
        ({"policy": "keep"}, "policy is 'keep'"),
        ({"policy": 3}, "policy is 3, not text"),
        ({"host_gib": "much"}, "host_gib is 'much'"),
        ({"host_gib": True}, "host_gib is True"),
        ({"host_gib": -1}, "host_gib is -1"),
        ({"host_gib": float("nan")}, "host_gib is nan"),
        ({"max_preserved_share": 1.5}, "max_preserved_share is 1.5"),
        ({"ttl_s": 1e9}, "ttl_s is 1e"),
        ({"prefill_token_s": 0.0}, "prefill_token_s is 0"),
        ({"policy": "sidecar"}, "needs redis"),
        ({"redis": "what"}, "scheme"),
        ({"policy": "swap"}, "needs host_gib"),
        ({"engine_id": "x" * 257}, "engine_id"),
    ],
)
def test_impossible_settings_are_named(config: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what) as raised:
        Settings.of(config)
    assert "\n" not in str(raised.value)


def test_hints_are_read() -> None:
    said = {"session": "a", "turn": 3, "tool": "search", "verb": "swap", "lease_s": 2, "ends": True}
    assert read_hint({"rlkv": said}) == Hint("a", 3, "search", Verb.SWAP, 2.0, True)
    nothing: list[Any] = [None, {}, {"other": 1}, {"rlkv": {}}, {"rlkv": None}]
    for params in nothing:
        assert read_hint(params) == NOTHING


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (3, "rlkv is int"),
        ({"what": 1}, "no what"),
        ({"session": 1}, "session"),
        ({"session": "\ud800"}, "session"),
        ({"tool": "x" * 257}, "tool"),
        ({"turn": True}, "turn"),
        ({"turn": -1}, "turn"),
        ({"verb": "keep"}, "verb"),
        ({"verb": ["swap"]}, "verb"),
        ({"lease_s": float("nan")}, "lease_s"),
        ({"lease_s": -1.0}, "lease_s"),
        ({"ends": "yes"}, "ends"),
    ],
)
def test_impossible_hints_are_named(said: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        read_hint({"rlkv": said})


def test_the_entry_point_is_there() -> None:
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())["project"]
    module, name = project["entry-points"]["vllm.general_plugins"]["rlkv"].split(":")
    assert callable(getattr(import_module(module), name))
    assert project["optional-dependencies"]["vllm"] == [], "nothing may move vLLM's own packages"


def test_what_decides_needs_neither_vllm_nor_torch() -> None:
    program = "import sys, rlkv_service.adapters.vllm.keeper, rlkv_service.adapters.vllm.plugin\n"
    program += "print(*{'vllm', 'torch', 'numba', 'redis', 'fastapi'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout.split(), done.stderr + done.stdout


def test_versions() -> None:
    assert all(is_tested(version) for version in TESTED_VERSIONS)
    assert is_tested("0.32.0+cpu")
    assert not any(map(is_tested, ("0.32.1", "0.33.0", "0.32.0rc1", "", "dev")))
