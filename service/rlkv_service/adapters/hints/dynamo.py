"""NVIDIA Dynamo: the session by headers, and a priority that backends with one may use.

Read in Dynamo 1.6.1 (ai-dynamo and ai-dynamo-runtime): ``dynamo/frontend/sglang_processor.py``
(``_routing_from_agent_hints``), ``dynamo/vllm/handlers.py``, ``dynamo/sglang/agent_session.py``,
``dynamo/thunderagent_router/__main__.py``; and docs.nvidia.com/dynamo/v1.6.2, Session IDs and Agent
Hints. Before 1.4 the headers were called ``x-dynamo-trajectory-*``; 1.6.1 does not know these.
"""

from __future__ import annotations

from typing import Any

from rlkv_service.adapters.hints.headers import header
from rlkv_service.adapters.hints.hints import Call, Hints
from rlkv_service.adapters.hints.pause import Pause, Served
from rlkv_service.schema import Verb

_SESSION = "x-dynamo-session-id"
_PARENT = "x-dynamo-parent-session-id"
_FINAL = "x-dynamo-session-final"
#: One step only: a request waits in the router's queue as if it had come so many seconds earlier.
_PRIORITIES = {Verb.PRESERVE: 1, Verb.SWAP: 0, Verb.DISCARD: -1}


def dynamo(pause: Pause, served: Served) -> Hints:
    """``nvext.agent_hints.priority`` and headers; at the end a request that says so.

    An engine of SGLang with ``--radix-eviction-policy priority`` keeps what has a higher priority;
    one of vLLM with ``--scheduling-policy priority`` and the router only schedule by it.

    The end is a request of its own, as Dynamo's documentation asks for: the agent router answers
    it itself and forwards nothing, without it an engine generates one token.
    """
    headers = header(_SESSION, pause.session) | header(_PARENT, pause.parent_session)
    fields: dict[str, Any] = {}
    lost: list[str] = []
    if not headers.get(_SESSION):
        lost.append("The session: its name has letters that a header cannot carry.")
    if pause.verdict is not None and not pause.ends:
        verb = pause.verdict.verb
        fields = {"nvext": {"agent_hints": {"priority": _PRIORITIES[verb]}}}
        lost.append(f"{verb.name}: a priority, which an engine may or may not use to keep KV.")
        if verb is Verb.PRESERVE:
            lost.append("lease_s: no time limit.")
    calls: tuple[Call, ...] = ()
    if pause.ends and served.model and headers.get(_SESSION):
        messages = [{"role": "user", "content": "."}]
        body = {"model": served.model, "messages": messages, "max_tokens": 1}
        final = headers | {_FINAL: "true"}
        calls = (Call(method="POST", path="/v1/chat/completions", body=body, headers=final),)
    elif pause.ends:
        lost.append("The end of a session: the request that says it needs the model's name.")
    return Hints(fields=fields, headers=headers, calls=calls, lost=tuple(lost))
