"""A request's fields as a head of HTTP/1.1, and a response's as fields of HTTP/2. Pure.

The parser of HTTP/1.1 judges the head, so a request means the same by both versions. What HTTP/2
can say and HTTP/1.1 can't is refused here (RFC 9113 section 8; "HTTP/2: The Sequel is Always
Worse", Kettle 2021): line ends, names with colons, fields of one hop, a Host beside another
`:authority`.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha1
from os import urandom
from typing import TYPE_CHECKING, Final

from hermes_lb.errors import RequestRefused
from hermes_lb.http.bounded_cache import BoundedCache
from hermes_lb.proxy.http2.grpc import is_grpc

if TYPE_CHECKING:
    from collections.abc import Iterable

#: RFC 6455 section 1.3.
_WEBSOCKET: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+").fullmatch
_PSEUDO = re.compile(rb"[\x21-\x7e]+").fullmatch
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
# Of one hop (RFC 9113 section 8.2.2): malformed.
OF_ONE_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
# Written by us, or about the connection.
_DROPPED = frozenset((b"host", b"cookie", b"sec-websocket-key"))


class Malformed(Exception):
    """Not a request by RFC 9113 section 8.1.1: its stream is reset."""


class Request:
    """`head`: as HTTP/1.1 has it. `websocket_key`: ours, for the server; empty for any other."""

    __slots__ = ("head", "is_grpc", "websocket_key")

    def __init__(self, head: bytes, websocket_key: bytes) -> None:
        self.head = head
        self.is_grpc: bool = is_grpc(head) is not None
        self.websocket_key = websocket_key


def as_http1(fields: tuple[tuple[bytes, bytes], ...], *, has_body: bool) -> Request:
    """The head of a request; of an extended CONNECT (RFC 8441), with a key of ours.

    Raises Malformed, or RequestRefused for what a client may say and servers must not get.
    """
    known = _requests.get((has_body, fields))
    if known is None:
        known = _as_http1(fields, has_body=has_body)
        if not known.websocket_key:  # which is another one each time
            _requests.remember((has_body, fields), len(known.head), known)
    return known


def _as_http1(fields: Iterable[tuple[bytes, bytes]], *, has_body: bool) -> Request:
    pseudo: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    cookies: list[bytes] = []
    hosts: list[bytes] = []
    has_fields = has_length = False
    for name, value, *_ in fields:
        if name[:1] == b":":
            if has_fields or name in pseudo or not _PSEUDO(value):
                raise Malformed("pseudo-header fields")
            pseudo[name] = value
            continue
        has_fields = True
        if name in OF_ONE_HOP or (name == b"te" and value.lower() != b"trailers"):
            raise Malformed("a field of one hop")
        if not is_name(name) or has_forbidden_bytes(value):
            raise Malformed("a field's name or value")
        if name == b"cookie":
            cookies.append(value)
        elif name == b"host":
            hosts.append(value)
        elif name not in _DROPPED:
            has_length = has_length or name == b"content-length"
            lines += (name, b": ", value, b"\r\n")
    method, target = pseudo.pop(b":method", b""), pseudo.pop(b":path", b"")
    authority, scheme = pseudo.pop(b":authority", b""), pseudo.pop(b":scheme", b"")
    protocol = pseudo.pop(b":protocol", b"")
    if pseudo or not _METHOD(method):
        raise Malformed("pseudo-header fields")
    # Not an absolute one, which would name another host than `:authority` (section 8.3.1).
    is_target = target[:1] == b"/" or (target, method) == (b"*", b"OPTIONS")
    upgrade = websocket_key = b""
    if method == b"CONNECT" and protocol:
        if protocol != b"websocket":
            raise RequestRefused(501, "this protocol of an extended CONNECT is not supported")
        websocket_key = b64encode(urandom(16))
        upgrade = (
            b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: %b\r\n"
        ) % websocket_key
        method, has_body = b"GET", False
    elif method == b"CONNECT":
        target, scheme = authority, scheme or b"https"
        is_target = target != b""
    elif protocol:
        raise Malformed("pseudo-header fields")
    if not (is_target and scheme) or b"#" in target:
        raise Malformed("pseudo-header fields")
    if hosts and authority and (len(hosts) > 1 or hosts[0] != authority):
        raise RequestRefused(400, "Host differs from :authority")
    hosts = [authority] if authority else hosts
    head = [method, b" ", target, b" HTTP/1.1\r\n"]
    for host in hosts:
        head += (b"host: ", host, b"\r\n")
    head += lines
    if cookies:
        head += (b"cookie: ", b"; ".join(cookies), b"\r\n")
    if upgrade:
        head.append(upgrade)
    elif has_body and not has_length:
        head.append(b"transfer-encoding: chunked\r\n")
    head.append(b"\r\n")
    return Request(b"".join(head), websocket_key)


def response_fields(status: int, lines: bytes) -> list[tuple[bytes, bytes]]:
    """`lines`: of HTTP/1.1, each with its CRLF."""
    known = _blocks.get(lines)
    if known is None:
        known = _blocks.remember(lines, len(lines), _fields(lines))
    return [(b":status", b"%d" % status), *known]


def _fields(lines: bytes) -> list[tuple[bytes, bytes]]:
    fields = []
    for line in lines.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon and (lower := name.lower()) not in OF_ONE_HOP:
            fields.append((lower, value.strip(b" \t")))
    return fields


def accepts(websocket_key: bytes, lines: bytes) -> bool:
    """Whether the fields of a 101 accept our key (RFC 6455 section 4.1)."""
    wanted = b64encode(sha1(websocket_key + _WEBSOCKET, usedforsecurity=False).digest())
    said = [
        value.strip()
        for name, _, value in (line.partition(b":") for line in lines.split(b"\r\n"))
        if name.lower() == b"sec-websocket-accept"
    ]
    return said == [wanted]


def has_forbidden_bytes(value: bytes) -> bool:
    """Line ends and NUL (RFC 9113 section 8.2.1)."""
    return b"\r" in value or b"\n" in value or b"\0" in value


def is_name(name: bytes) -> bool:
    """A token in lower case."""
    known = _names.get(name)
    if known is None:
        known = _names.remember(name, len(name), _NAME(name) is not None)
    return known


_names: BoundedCache[bytes, bool] = BoundedCache(most=1024, longest=64)
# A client repeats its requests; HPACK has made them small, and they are as long as ever here.
_requests: BoundedCache[tuple[bool, tuple[tuple[bytes, bytes], ...]], Request] = BoundedCache(
    most=512, longest=1024
)
# Blocks of responses: a server's recur, for a second at least, in which Date is the same.
_blocks: BoundedCache[bytes, list[tuple[bytes, bytes]]] = BoundedCache(most=256, longest=1024)
