"""Pauses and verdicts for tests of mappings."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from rlkv_service.adapters.hints import Pause, Verdict
from rlkv_service.schema import Verb


def pause_of(verb: Verb, *, priority: int = 80, **more: Any) -> Pause:
    """A pause of a known session; what is not a verdict's is the pause's."""
    of_verdict = {
        name: more.pop(name)
        for name in ("lease_s", "expected_return_p50_s", "expected_return_p90_s")
        if name in more
    }
    verdict = Verdict(verb=verb, soft_priority=priority, **of_verdict)
    known: dict[str, Any] = {"session": "chat-17", "turn": 3, "tool": "search"}
    return Pause(**known | {"verdict": verdict} | more)


@st.composite
def pauses(draw: st.DrawFn) -> Pause:
    seconds = st.floats(0, 1e12) | st.just(float("inf"))
    verdict = Verdict(
        verb=draw(st.sampled_from(Verb)),
        lease_s=draw(seconds),
        soft_priority=draw(st.integers(0, 100)),
        expected_return_p50_s=draw(seconds | st.just(float("nan"))),
        expected_return_p90_s=draw(seconds | st.just(float("nan"))),
    )
    prompt_tokens = draw(st.none() | st.integers(1, 200_000))
    generated = draw(st.none() | st.integers(0, 5000))
    return Pause(
        session=draw(st.text(min_size=1, max_size=20)),
        verdict=draw(st.none() | st.just(verdict)),
        turn=draw(st.none() | st.integers(0, 2**31 - 1)),
        tool=draw(st.text(max_size=20)),
        parent_session=draw(st.text(max_size=5)),
        prompt_tokens=prompt_tokens,
        context_tokens=(
            None if prompt_tokens is None or generated is None else prompt_tokens + generated
        ),
        shared_tokens=draw(st.none() | st.integers(0, 5000)),
        token_ids=draw(st.lists(st.integers(0, 100_000), max_size=4)),
        ends=draw(st.booleans()),
    )
