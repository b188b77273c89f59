from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from rlkv.engine_setup import build_engine, engine_profile, load, warm_up
from rlkv_engine.errors import InputError
from tests.service.openai_server.running_server import running_server
from tests.service.openai_server.scripted_model import answer, tool_call

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_library_user_pauses_a_session(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "paged_engine.py"))
    text, cached = capsys.readouterr().out.strip().split("\n")
    assert text.startswith("What is in the file?") and " It says: hello." in text
    assert int(cached.split()[0]) > 20


def test_an_agent_calls_a_tool_through_the_openai_client(
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = runpy.run_path(str(EXAMPLES / "openai_tool_call.py"))

    def agent(prompt: str) -> str:
        asked = "<tool_response>" not in prompt
        return tool_call("weather", {"city": "Oslo"}) if asked else answer(prompt)

    with running_server(script=agent) as server:
        told = example["main"](f"{server.url}/v1")
    assert told == "The tool says Rain in Oslo, 12 degrees.."
    first, second, _ = capsys.readouterr().out.strip().split("\n")
    assert first.endswith("of prompt, of which 0 were still there")
    assert int(second.split()[-4]) > int(first.split()[0])


@pytest.mark.parametrize("policy", ["house", "universal", "min-waste", "ttl"])
def test_an_engine_is_put_together_for_a_policy(policy: str) -> None:
    engine = build_engine(load(), policy=policy)
    warm_up(engine)
    assert engine.profile.num_device_blocks == 2048
    engine.check_integrity()
    engine.close()


def test_pools_are_those_asked_for() -> None:
    profile = engine_profile(load(), num_device_blocks=7, num_host_blocks=0)
    assert (profile.num_device_blocks, profile.num_host_blocks) == (7, 0)
    assert profile.kv_bytes_per_token == 2 * 4 * 2 * 16 * 4
    with pytest.raises(InputError, match="num_device_blocks must be a finite number at least 1"):
        engine_profile(load(), num_device_blocks=0)
