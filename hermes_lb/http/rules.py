"""The rules for a request's head. A head that can be read in two ways is refused. No I/O."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as NotBase64
from ipaddress import AddressValueError, IPv6Address
from typing import TYPE_CHECKING

from hermes_lb.errors import RequestRefused
from hermes_lb.http.bounded_cache import BoundedCache
from hermes_lb.http.fields import BLANKS, TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterable

# RFC 9112 section 3.2: uri-host [":" port]. No userinfo, no path, no list. The host is that of RFC
# 3986 section 3.2.2, but for `IPvFuture`, which there is no way to reach, and zones (RFC 6874),
# which mean something on one machine only.
_HOST = re.compile(
    rb"(?P<host>(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])"
    rb"(?::(?P<port>[0-9]{0,5}))?",
    re.ASCII,
).fullmatch
_MOST_PORT = 65_535


class _Hosts(BoundedCache[bytes, str]):
    """A Host value -> the name in lower case without the port and without the dot that a whole name
    may end with (nginx too), or "" if it is malformed."""

    def __missing__(self, value: bytes) -> str:
        return self.remember(value, len(value), _host_name(value))


def _host_name(value: bytes) -> str:
    match = _HOST(value)
    if match is None or (match["port"] and int(match["port"]) > _MOST_PORT):
        return ""
    if match["ipv6"] is not None:
        try:
            IPv6Address(match["ipv6"].decode("ascii"))
        except AddressValueError:
            return ""
    return match["host"].decode("ascii").lower().removesuffix(".")


host_names = _Hosts(most=4096, longest=255)


# The first line.

_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE | re.DOTALL).fullmatch


def split_absolute(method: bytes, target: bytes) -> tuple[bytes, bytes] | None:
    """Absolute-form -> the authority, and the target as a server wants it; None: another form.

    RFC 9112 sections 3.2.2 and 3.2.4.
    """
    match = _ABSOLUTE_FORM(target)
    if match is None:
        return None
    authority, rest = match.groups()
    if rest.startswith(b"/"):
        return authority, rest
    return authority, b"*" if method == b"OPTIONS" and not rest else b"/" + rest


_LATER_MINOR = re.compile(rb"[^\r\n]* HTTP/1\.([2-9])\r\n").match


def as_http11(data: bytes) -> bytes | None:
    """A head of HTTP/1.2 to 1.9 as one of 1.1, which it includes (RFC 9110 section 2.5)."""
    start = 2 if data.startswith(b"\r\n") else 0
    match = _LATER_MINOR(data, start)
    return data[: match.start(1)] + b"1" + data[match.end(1) :] if match else None


def request_line(data: bytes | bytearray) -> tuple[bytes, bool]:
    """The first line of a head, or of the beginning of one, and whether it has come to its end."""
    start = 2 if data.startswith(b"\r\n") else 0
    end = data.find(b"\r\n", start)
    return bytes(data[start : end if end >= 0 else len(data)]), end >= 0


# Of what llhttp says, that which the method alone is to blame for. It knows those of HTTP, and of
# RTSP, which it refuses as methods of HTTP.
_METHOD_PROBLEMS = frozenset(
    ("Invalid method encountered", "Expected space after method",
     "Invalid method for HTTP/x.x request")
)  # fmt: skip
_WITH_A_METHOD = re.compile(TOKEN + rb" [^ ]+ HTTP/1\.[0-9]").fullmatch


# What a head that has not come whole may begin with, and what can't stand anywhere in one.
_BEGINNING = re.compile(rb"(?:\r\n)?(?:[!#$%&'*+.^_`|~0-9A-Za-z-]|\Z)|\r\Z").match
_NEVER = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0").search


def refuse_hopeless(data: bytes | bytearray, searched: int) -> None:
    """Refuse the beginning of a head that no further byte can make valid.

    Such as a TLS hello, or lines that end in LF: there is no need to wait for CRLF CRLF.
    `data[:searched]` was seen before.
    """
    if not searched and not _BEGINNING(data):
        raise RequestRefused(400, "this is not HTTP/1.1")
    if _NEVER(data, searched):
        raise RequestRefused(400, "a line that ends in a bare LF or CR, or a NUL")


def explain(data: bytes, problem: str) -> RequestRefused:
    """What llhttp found wrong with a head -> the refusal."""
    line, _ = request_line(data)
    if problem in _METHOD_PROBLEMS and _WITH_A_METHOD(line):
        return RequestRefused(501, "the method is not known here")  # RFC 9110 section 9.1
    if line.endswith((b" HTTP/2.0", b" HTTP/3.0")):
        return RequestRefused(505, "HTTP/1.1 is spoken here")
    if "Transfer-Encoding" in problem and "Content-Length" not in problem:
        return refused_coding(_CODINGS(data))
    return RequestRefused(400, f"malformed request ({problem})")


# The framing (RFC 9112 section 6).

_CODINGS = re.compile(rb"\r\ntransfer-encoding:[ \t]*([^\r\n]*)", re.IGNORECASE).findall
_UNKNOWN_CODING = re.compile(rb"(?:(?!chunked\b)" + TOKEN + rb"[ \t]*,[ \t]*)*" + TOKEN).fullmatch


def refused_coding(values: Iterable[bytes]) -> RequestRefused:
    """Transfer-Encoding that is not exactly `chunked`: not known here (501), or ambiguous."""
    values = list(values)
    coding = values[0].strip(BLANKS).lower()
    if len(values) == 1 and coding != b"chunked" and _UNKNOWN_CODING(coding):
        return RequestRefused(501, "the only transfer coding accepted is chunked")
    return RequestRefused(400, "Transfer-Encoding that is not exactly chunked")


# WebSocket (RFC 6455 section 4.2.1).


def is_websocket_handshake(fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """Is this what opens a WebSocket: one key of 16 bytes in base64, version 13?"""
    found = [
        (name, value)
        for name, value in ((name.lower(), value) for name, value in fields)
        if name in (b"sec-websocket-key", b"sec-websocket-version")
    ]
    keys = [value for name, value in found if name == b"sec-websocket-key"]
    if len(found) != 2 or len(keys) != 1 or (b"sec-websocket-version", b"13") not in found:
        return False
    try:
        return len(b64decode(keys[0], validate=True)) == 16
    except NotBase64:
        return False
