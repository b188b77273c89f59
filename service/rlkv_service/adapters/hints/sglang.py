"""SGLang: a session whose KV is taken after that of others, a priority, and the session's end.

Read in SGLang 0.5.23, all under ``srt/``: ``entrypoints/openai/protocol.py`` (``session_id`` and
``priority`` of chats and completions), ``managers/io_struct.py`` (``GenerateReqInput``,
``CloseSessionReqInput``), ``managers/scheduler.py`` (``_handle_generate_request``: a session needs
no opening; ``close_session``), ``mem_cache/evict_policy.py``, ``mem_cache/radix_cache.py``.
"""

from __future__ import annotations

from typing import Any

from rlkv_service.adapters.hints.hints import Call, Hints
from rlkv_service.adapters.hints.pause import Pause, Served
from rlkv_service.schema import Verb

#: A priority of 0 is what a request without one counts as. From -5 to 5: a running request is
#: preempted for one whose priority is more than 10 higher.
_NEUTRAL, _STEP = 50, 10


def sglang(pause: Pause, _: Served) -> Hints:
    """Fields of a request, and ``/close_session`` where its KV may go.

    ``session_id`` protects softly with ``--enable-session-radix-cache``: KV that no session refers
    to is taken first. ``priority`` counts with ``--radix-eviction-policy priority``: the smallest
    is taken first. With ``--enable-priority-scheduling`` the same number orders admission, and
    requests without one come last unless ``--default-priority-value 0`` says otherwise.

    A DISCARD closes the session: it gives up its protection, and is protected again by its next
    request.
    """
    verdict = pause.verdict
    fields: dict[str, Any] = {"session_id": pause.session}
    ruled_out = {"session_id": ("session_params",)}
    discards = pause.ends or (verdict is not None and verdict.verb is Verb.DISCARD)
    lost = []
    if discards:
        fields["priority"] = -_NEUTRAL // _STEP
        lost.append("DISCARD: KV that had a higher priority once keeps it, and nothing is freed.")
    elif verdict is not None:
        fields["priority"] = (verdict.soft_priority - _NEUTRAL) // _STEP
        if verdict.verb is Verb.SWAP:
            lost.append("SWAP: HiCache copies by its own --hicache-write-policy.")
        else:
            lost.append("lease_s: no time limit.")
    calls = (Call(method="POST", path="/close_session", body={"session_id": pause.session}),)
    return Hints(
        fields=fields, ruled_out_by=ruled_out, calls=calls if discards else (), lost=tuple(lost)
    )
