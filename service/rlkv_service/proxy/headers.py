"""Which headers pass: all but those of one connection (RFC 9110, section 7.6.1)."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from rlkv_service.proxy.upstream_connection import Headers

_HOP_BY_HOP = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
        b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    )
)  # fmt: skip
#: The server in front answers the one itself, and says the others anew.
_OURS = frozenset((b"expect", b"host", b"content-length"))
_VIA = b"1.1 rlkv"


def request_headers(
    headers: Iterable[tuple[bytes, bytes]],
    authority: bytes,
    num_body_bytes: int | None,
    without: Collection[bytes] = (),
    added: Headers | None = None,
) -> Headers:
    """What the backend is sent.

    Args:
        headers: of the client, names in lower case.
        authority: of the backend, for ``Host``.
        num_body_bytes: what ``Content-Length`` says; None: nothing, there is no body.
        without: names that do not pass, on top.
        added: on top, where the client has sent none of that name.
    """
    headers = list(headers)
    dropped = _named_by_connection(headers)
    sent: Headers = [(b"host", authority)]
    via = _VIA
    for name, value in headers:
        if name == b"via":
            via = value + b", " + via
        elif not (name in _HOP_BY_HOP or name in _OURS or name in dropped or name in without):
            sent.append((name, value))
    if added:
        names = {name for name, _ in sent}
        sent += [header for header in added if header[0] not in names]
    sent.append((b"via", via))
    if num_body_bytes is not None:
        sent.append((b"content-length", str(num_body_bytes).encode()))
    return sent


def response_headers(headers: Headers, status: int) -> Headers:
    """What the client is sent of the backend's."""
    dropped = _named_by_connection(headers)
    chunked = any(name == b"transfer-encoding" for name, _ in headers)
    return [
        (name, value)
        for name, value in headers
        if name not in _HOP_BY_HOP
        and name not in dropped
        # With chunks a length does not count; and of a 304 it is that of a body that is not sent.
        and not (name == b"content-length" and (chunked or status == 304))
    ]


def _named_by_connection(headers: Headers) -> set[bytes]:
    return {
        word.strip().lower()
        for name, value in headers
        if name == b"connection"
        for word in value.split(b",")
    }
