"""Heads of responses as they are stored, and the fields that we add to them. Pure."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from hermes_lb.http import ResponseParser
from hermes_lb.http import cors as cors_rules
from hermes_lb.proxy.local_replies import LocalReply

if TYPE_CHECKING:
    from hermes_lb.http import ResponseHead

#: Where a turn is found by its id, on each frontend with a route that has turns.
RESUME_PATH: Final = b"/.hermes/turns/"

# Other X-Hermes-* fields belong to applications: X-Hermes-Session-Id is hermes-agent's, and our
# worker's. Underscores too: CGI and WSGI servers read them as "-".
_OURS_IN_REQUEST = re.compile(
    rb"\r\nx[-_]hermes[-_](?:fence|turn|resume|degraded)[ \t]*:[^\r\n]*(?=\r\n)", re.IGNORECASE
)
_OURS_IN_RESPONSE, _OURS_BUT_RESUME = (
    re.compile(rb"^(?:%b):[^\r\n]*\r\n" % names, re.IGNORECASE | re.MULTILINE)
    for names in (
        b"x-hermes-turn|x-hermes-resume|idempotency-replayed",
        b"x-hermes-turn|idempotency-replayed",
    )
)
# Of one request or one connection, or of a policy that may change: not of the turn.
_NOT_STORED = re.compile(
    rb"^(?:set-cookie2?|alt-svc|strict-transport-security|content-length"
    rb"|x-hermes-(?:turn|resume|degraded|handover|load|draining)"
    rb"|transfer-encoding|connection|keep-alive|idempotency-replayed):[^\r\n]*\r\n",
    re.IGNORECASE | re.MULTILINE,
)
_CACHE_CONTROL = re.compile(rb"^(?:cache-control|expires|pragma):[^\r\n]*\r\n", re.I | re.M)
_ALLOWED_ORIGIN = re.compile(
    rb"^access-control-allow-origin:[ \t]*([^\r\n]*?)[ \t]*\r\n", re.I | re.M
)
_CORS = re.compile(
    rb"^(?:access-control-allow-(?:origin|credentials)|vary):[^\r\n]*\r\n", re.I | re.M
)
_ACCEPTED_CODINGS = re.compile(rb"\r\naccept-encoding:[^\r\n]*(?=\r\n)", re.IGNORECASE)

# Stored heads have a Date more than came, and a reload may have lowered the limit of their fields.
_STORED: Final = ResponseParser(1 << 16)

_EXPOSED: Final = (
    b"Access-Control-Expose-Headers: X-Hermes-Turn, X-Hermes-Resume, Idempotency-Replayed\r\n"
)


def without_ours(request_head: bytes) -> bytes:
    """A request without fields that only we may send: a forged fence would lock a session."""
    if b"hermes" not in request_head.lower():
        return request_head
    end = request_head.index(b"\r\n\r\n") + 2
    return _OURS_IN_REQUEST.sub(b"", request_head[:end]) + request_head[end:]


def with_identity_coding(request_head: bytes) -> bytes:
    """A request whose response is not compressed: we could not see where its events end."""
    end = request_head.index(b"\r\n\r\n") + 2
    fields = _ACCEPTED_CODINGS.sub(b"", request_head[:end])
    return b"%bAccept-Encoding: identity\r\n%b" % (fields, request_head[end:])


def with_field(request_head: bytes, field: bytes) -> bytes:
    """One more `field`, with its CRLF; a body may follow the head."""
    end = request_head.index(b"\r\n\r\n") + 2
    return request_head[:end] + field + request_head[end:]


def fence_field(fence: int) -> bytes:
    return b"X-Hermes-Fence: %d\r\n" % fence


def stripped(fields: bytes, *, keeps_resume: bool = False) -> bytes:
    """The fields of a backend's response, without those that only we may send.

    `keeps_resume`: its resume path is the client's, as on a route without turns.
    """
    if b"ermes" not in fields and b"dempot" not in fields:
        return fields
    return (_OURS_BUT_RESUME if keeps_resume else _OURS_IN_RESPONSE).sub(b"", fields)


def stored(head: ResponseHead, fields: bytes) -> bytes:
    """A response's head, as another request may get it. `fields`: as the client gets them."""
    kept = _NOT_STORED.sub(b"", fields)
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (head.status, head.reason, kept)


def parse_stored(data: bytes) -> ResponseHead:
    """What `stored` has made; raises InvalidResponse for anything else."""
    return _STORED.parse(data)


def for_turn(fields: bytes, turn: str, *, is_stream: bool, is_get: bool, vary: bytes) -> bytes:
    """`fields` with those of the turn. `vary`: the credential's field names.

    A cache must not answer for a turn, least of all another principal's.
    """
    name = turn.encode()
    ours = b"X-Hermes-Turn: %b\r\n" % name
    if is_stream:
        ours += b"X-Hermes-Resume: %b%b\r\n" % (RESUME_PATH, name)
    if is_get:
        fields = _CACHE_CONTROL.sub(b"", fields)
        ours += b"Cache-Control: no-store\r\n"
        if vary:
            ours += b"Vary: %b\r\n" % vary
    if _ALLOWED_ORIGIN.search(fields) is not None:
        ours += _EXPOSED
    return fields + ours


def origin_of(request_head: bytes) -> bytes:
    """The page whose request it is; b"" for none."""
    return cors_rules.origin_of(_lines(request_head))


def allowed_origin(fields: bytes, origin: bytes) -> bytes:
    """`origin`, if a page there may read a response with these fields; else b""."""
    allowed = _ALLOWED_ORIGIN.search(fields) if origin else None
    return origin if allowed is not None and allowed[1] in (b"*", origin) else b""


def cors(stored_head: bytes) -> bytes:
    """What lets the page of a turn read our own answers about it."""
    _, _, fields = stored_head.partition(b"\r\n")
    if _ALLOWED_ORIGIN.search(fields) is None:
        return b""
    return b"".join(_CORS.findall(fields)) + _EXPOSED


def preflight(stored_head: bytes, origin: bytes, request_head: bytes) -> LocalReply:
    """Its page may send GET and DELETE with the fields that it has asked for (Fetch, 3.3.5)."""
    asked = cors_rules.asked_fields(_lines(request_head))
    credentials = b"access-control-allow-credentials: true" in stored_head.lower()
    vary = b"Vary: Origin\r\n"
    fields = cors_rules.preflight(origin, vary, b"GET, DELETE", asked, 600, credentials=credentials)
    return LocalReply(204, fields)


def _lines(request_head: bytes) -> bytes:
    """Those of the fields; a body may follow the head."""
    return request_head[: request_head.find(b"\r\n\r\n") + 2]


def answer(reply: LocalReply) -> bytes:
    """A response of our own, as joined requests get it."""
    phrase = HTTPStatus(reply.status).phrase.encode()
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (reply.status, phrase, reply.fields, reply.body)


def parse_answer(data: bytes) -> LocalReply | None:
    """The response of a released turn; None if there is none."""
    head, separator, body = data.partition(b"\r\n\r\n")
    line, _, fields = head.partition(b"\r\n")
    parts = line.split(b" ", 2)
    if not separator or len(parts) < 2 or not parts[1].isdigit():
        return None
    fields = _NOT_STORED.sub(b"", fields + b"\r\n") if fields else b""
    return LocalReply(int(parts[1]), fields, body)
