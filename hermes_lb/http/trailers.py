"""Fields behind a body: which of them pass on, and their two forms (RFC 9110 section 6.5).

A recipient may merge trailers into the head, so a field that would mean something there is dropped:
framing, routing, request modifiers, authentication, control data, the format of the content. These
are Go's (`httpguts.ValidTrailerHeader`) and the response fields that section 6.5.1 means, and all
that a proxy interprets in a request.

HAProxy passes trailers on (`option http-drop-request-trailers` and its twin end that), nginx by
`proxy_pass_trailers` those of responses.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from hermes_lb.errors import InvalidBody
from hermes_lb.http.fields import BLANKS, REQUEST_FIELDS, TOKEN, kind_of
from hermes_lb.http.limits import TRAILERS_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable

# All bytes that a field may have in its value; CR, LF and NUL would be more than a field.
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*").fullmatch
_NAME = re.compile(TOKEN).fullmatch

_FORBIDDEN: Final = frozenset(
    (b"age", b"authentication-info", b"authorization", b"cache-control", b"content-encoding",
     b"content-range", b"content-type", b"date", b"expires", b"last-event-id", b"location",
     b"mcp-session-id", b"pragma", b"range", b"realm", b"retry-after", b"set-cookie",
     b"strict-transport-security", b"vary", b"warning", b"www-authenticate")
)  # fmt: skip
_FORBIDDEN_PREFIXES: Final = (b"if-", b"access-control-", b"x-hermes-")


def _may_pass(name: bytes) -> bool:
    lower = name.lower()
    read_as = lower.replace(b"_", b"-")  # by CGI and WSGI servers
    return (
        kind_of(lower, REQUEST_FIELDS) is None
        and read_as not in _FORBIDDEN
        and not read_as.startswith(_FORBIDDEN_PREFIXES)
    )


def safe_line(line: bytes) -> bytes:
    """A field line without its end -> the same with it; empty if it must not pass."""
    return line + b"\r\n" if _may_pass(line.partition(b":")[0]) else b""


def safe_lines(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Those of HTTP/2 that pass, as lines. Raises InvalidBody."""
    lines = b""
    for name, value, *_ in fields:
        if not _NAME(name) or not _VALUE(value):
            raise InvalidBody("malformed trailers")
        if len(lines) + len(name) + len(value) > TRAILERS_SIZE:
            raise InvalidBody("the trailers are too long")
        if _may_pass(name):
            lines += b"%b: %b\r\n" % (name, value)
    return lines


def as_fields(lines: bytes) -> list[tuple[bytes, bytes]]:
    """Lines with their ends -> fields of HTTP/2."""
    fields = []
    for line in lines.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            fields.append((name.lower(), value.strip(BLANKS)))
    return fields


def last_chunk(lines: bytes) -> bytes:
    """The end of a chunked body."""
    return b"0\r\n%b\r\n" % lines
