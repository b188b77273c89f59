from __future__ import annotations

import pytest

from rlkv.real_vllm.player import play
from rlkv.real_vllm.traffic import Session, Turn
from rlkv_engine.errors import RlkvError
from tests.rlkv.real_vllm.answering_server import CACHED_TOKENS, AnsweringServer

AGENT = Session("agent", True, 0.02, [Turn(0, [7, 8, 9], 2, "search", 0.05), Turn(4, [10, 11], 1)])
STRANGER = Session("stranger", False, 0.0, [Turn(0, [12], 1)])


def test_a_turn_goes_on_from_what_was_said() -> None:
    with AnsweringServer() as server:
        played = play(server.url, [AGENT, STRANGER])
    by_prompt = {len(body["prompt"]): body for body in server.asked}
    assert by_prompt[1]["prompt"] == [12] and "kv_transfer_params" not in by_prompt[1]
    first, second = by_prompt[3], by_prompt[6]
    assert first["prompt"] == [7, 8, 9]
    # Of prompt and answer the first four tokens stay.
    assert second["prompt"] == [7, 8, 9, 100, 10, 11]
    said = [body["kv_transfer_params"]["rlkv"] for body in (first, second)]
    assert said == [
        {"session": "agent", "turn": 0, "tool": "search"},
        {"session": "agent", "turn": 1},
    ]
    agents = [turn for turn in played.turns if turn.is_agent]
    assert [turn.turn for turn in agents] == [0, 1]
    assert [turn.prompt_tokens for turn in agents] == [3, 6]
    assert {turn.cached_tokens for turn in played.turns} == {CACHED_TOKENS}
    assert all(0.0 < turn.first_token_s <= turn.took_s for turn in played.turns)
    # The pause is not part of a turn, but of the run.
    assert played.took_s >= 0.02 + 0.05 + sum(turn.took_s for turn in agents) - 1e-6


def test_a_refusal_is_said() -> None:
    with AnsweringServer(refuses=True) as server, pytest.raises(RlkvError, match="400"):
        play(server.url, [STRANGER])


def test_a_server_that_is_gone_is_said() -> None:
    with AnsweringServer() as server:
        url = server.url
    with pytest.raises(RlkvError, match="the server under load"):
        play(url, [STRANGER])
