"""Requests as they look; the tests send every one of them."""

from __future__ import annotations

from typing import Any

#: Of the profile llama3-8b-h100.
_MACHINE = {
    "block_size": 16,
    "num_device_blocks": 25243,
    "num_host_blocks": 25243,
    "max_num_seqs": 256,
    "prefill_token_s": 0.0000325,
    "prefill_token_context_s": 0.00000000106,
    "swap_out_block_s": 0.0000419,
    "swap_in_block_s": 0.0000419,
}

#: A pause begins, and little is known.
CALL: dict[str, Any] = {
    "engine_id": "engine-0",
    "machine": _MACHINE,
    "memory": {"free_blocks": 5200, "host_free_blocks": 18000},
    "rows": [
        {
            "session": "chat-17", "turn": 3, "tool": "search", "point": "CALL",
            "context_tokens": 6200,
        },
    ],
}  # fmt: skip

#: The same, answered in the words of SGLang as well.
HINTED: dict[str, Any] = {**CALL, "hints": {"backend": "sglang"}}

#: A session is back from its tool and lacks memory: whose blocks may it take?
OFFER: dict[str, Any] = {
    "v": 1,
    "engine_id": "engine-0",
    "profile_id": "llama3-8b-h100",
    "machine": {**_MACHINE, "mean_pause_s": 6.5},
    "memory": {
        "free_blocks": 12, "paused_blocks": 9000, "host_free_blocks": 18000, "num_running": 48,
        "num_paused": 30,
    },
    "rows": [
        {
            "session": "chat-17", "turn": 3, "tool": "search", "point": "RESUME",
            "need_blocks": 400, "short_blocks": 388, "wait_s": 0.02, "context_tokens": 6200,
            "device_blocks": 388, "dirty_blocks": 388, "elapsed_s": 1.4, "rank": 0,
        },
        {
            "session": "chat-9", "turn": 11, "tool": "shell", "point": "RESUME",
            "need_blocks": 400, "short_blocks": 388, "wait_s": 0.02, "context_tokens": 30000,
            "device_blocks": 1875, "host_blocks": 1875, "dirty_blocks": 0, "elapsed_s": 25.0,
            "remaining_s": None, "rank": 1,
        },
    ],
}  # fmt: skip

#: A tool has come back.
OUTCOME: dict[str, Any] = {
    "engine_id": "engine-0",
    "outcomes": [
        {
            "session": "chat-17", "turn": 3, "tool": "search", "pause_s": 1.9,
            "context_tokens": 6200, "input_tokens": 6000, "output_tokens": 200,
            "new_tokens": 350, "reused_device_tokens": 6192, "delay_s": 0.06, "verb": "PRESERVE",
        },
    ],
}  # fmt: skip

#: As little as an outcome can say.
SHORT_OUTCOME: dict[str, Any] = {
    "engine_id": "engine-0",
    "outcomes": [
        {
            "session": "chat-9", "turn": 11, "tool": "shell", "pause_s": 40.5,
            "context_tokens": 30000,
        },
    ],
}  # fmt: skip
