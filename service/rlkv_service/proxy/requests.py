"""What a request says of its session, in the words of four APIs.

``/v1/chat/completions``, ``/v1/completions`` and ``/v1/responses`` are OpenAI's, ``/v1/messages``
is Anthropic's (openai 3.57 and the servers of vLLM 0.32 were read). What cannot be read here
passes all the same: whether it makes sense is the backend's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from rlkv_service.proxy.answers import Choice
from rlkv_service.proxy.conversations import (
    Chat,
    Conversation,
    Prompt,
    Responses,
    canonical_message,
)
from rlkv_service.proxy.repeated_answers import (
    answer_of_chat_message,
    answer_of_input_item,
    answer_of_messages_message,
    is_thought,
)
from rlkv_service.schema import MAX_NAME_LENGTH

TOOL_HEADER = b"x-rlkv-tool"
ENDS_HEADER = b"x-rlkv-ends"
SESSION_HEADER = b"x-session-id"


class Kind(StrEnum):
    """An API."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"


#: How their paths end, whatever stands before.
_PATHS = {
    "/v1/chat/completions": Kind.CHAT,
    "/v1/completions": Kind.COMPLETIONS,
    "/v1/responses": Kind.RESPONSES,
    "/v1/messages": Kind.MESSAGES,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for an answer."""

    kind: Kind
    members: Mapping[str, msgspec.Raw]  #: of its body
    model: str
    session: str | None  #: that the client names
    turn: int | None  #: the same
    tool: str  #: that the session will wait for, as its client says; empty: it does not
    ends: bool  #: whether it is the session's last
    conversation: Conversation | None  #: None: it cannot be known again


def kind_of(method: str, path: str) -> Kind | None:
    """The API that is asked; None: it gives no answers of a model."""
    if method != "POST":
        return None
    return next((kind for end, kind in _PATHS.items() if path.endswith(end)), None)


def read_request(kind: Kind, headers: Mapping[bytes, bytes], body: bytes) -> Asked:
    """Reads a request.

    Args:
        kind: what is asked.
        headers: by name, in lower case.
        body: JSON.

    Raises:
        msgspec.MsgspecError: it is not what the API wants; the backend will say so.
    """
    members = _members.decode(body)
    said = _Said.of(members)
    model = said.model if isinstance(said.model, str) else ""
    params = said.kv_transfer_params
    ours = params.get("rlkv") if isinstance(params, dict) else None
    ours = ours if isinstance(ours, dict) else {}
    names = (said.session_id, headers.get(SESSION_HEADER), ours.get("session"))
    session = next((name for name in map(_name, names) if name), None)
    turn = ours.get("turn")
    return Asked(
        kind,
        members,
        model,
        session,
        turn if isinstance(turn, int) and 0 <= turn < 2**31 else None,
        _name(headers.get(TOOL_HEADER)) or _name(ours.get("tool")) or "",
        headers.get(ENDS_HEADER, b"").lower() in (b"1", b"true") or ours.get("ends") is True,
        _conversation(kind, members, model, b'"cache_control"' in body),
    )


class _Said(msgspec.Struct):
    model: Any = None
    session_id: Any = None
    kv_transfer_params: Any = None

    @classmethod
    def of(cls, members: Mapping[str, msgspec.Raw]) -> _Said:
        found = {name: members[name] for name in cls.__struct_fields__ if name in members}
        return cls(**{name: msgspec.json.decode(raw) for name, raw in found.items()})


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])
_strings = msgspec.json.Decoder(str)


def _conversation(
    kind: Kind, members: Mapping[str, msgspec.Raw], model: str, canonical: bool
) -> Conversation | None:
    seed = f"{kind}\0{model}\0".encode(errors="surrogatepass")
    if kind is Kind.COMPLETIONS:
        prompt = members.get("prompt", msgspec.Raw(b""))
        # Of token ids, and of several prompts, an answer in words does not say the next one.
        return Prompt(seed, _strings.decode(prompt)) if bytes(prompt)[:1] == b'"' else None
    if kind is Kind.RESPONSES:
        previous = members.get("previous_response_id", msgspec.Raw(b"null"))
        named = _strings.decode(previous) if bytes(previous)[:1] == b'"' else ""
        items = _chat(
            seed + bytes(members.get("instructions", b"")),
            members.get("input"),
            answer_of_input_item,
            canonical,
        )
        return Responses(seed, named, items)
    if kind is Kind.MESSAGES:
        system = bytes(members.get("system", b""))
        seed += canonical_message(system) if system and canonical else system
        return _chat(seed, members.get("messages"), answer_of_messages_message, canonical)
    return _chat(seed, members.get("messages"), answer_of_chat_message, canonical)


def _chat(
    seed: bytes,
    listed: msgspec.Raw | None,
    read_answer: Callable[[bytes], Choice | None],
    canonical: bool,
) -> Chat | None:
    if listed is None or bytes(listed)[:1] != b"[":
        return None
    messages = [bytes(item) for item in _items.decode(listed)]
    if read_answer is answer_of_input_item:
        # A model's thoughts stand before what it said, and may be left out.
        messages = [item for item in messages if not is_thought(item)]
    if canonical:
        messages = [canonical_message(message) for message in messages]
    return Chat(seed, messages, read_answer) if messages else None


def _name(name: Any) -> str | None:
    if isinstance(name, bytes):
        name = name.decode("latin-1")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_LENGTH:
        return None
    return name if name.isprintable() else None
