"""A request head: bytes -> what it means, or a refusal. No I/O.

llhttp checks the syntax; what it lets pass although it is ambiguous is refused here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import httptools

from hermes_lb.errors import RequestRefused
from hermes_lb.http1.fields import (
    CONNECTION,
    CONTENT_LENGTH,
    COOKIE,
    EXPECT,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PROTO,
    HOST,
    MAX_FORWARDS,
    REQUEST_FIELDS,
    REQUEST_ID,
    TRANSFER_ENCODING,
    UPGRADE,
    VIA,
    Connection,
    Plan,
    Plans,
    connections,
    joined_connection,
    parse_content_length,
)
from hermes_lb.http1.head import HeadParser
from hermes_lb.http1.limits import TARGET_SIZE
from hermes_lb.http1.memory import Memory

if TYPE_CHECKING:
    from hermes_lb.config import Limits

CHUNKED: Final = -1  # a body's length where it is chunked

# RFC 9112 section 3.2: uri-host [":" port]. No userinfo, no path, no list.
_HOST = re.compile(
    rb"(?P<host>[A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?", re.ASCII
)
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE | re.DOTALL)
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_plans = Plans(REQUEST_FIELDS)


class RequestHead:
    """A request as it will be understood, routed and forwarded.

    `forwarded` has the fields that pass as they are, each with its CRLF.
    `length` is the body's length in bytes, `CHUNKED`, or 0 for none.
    """

    __slots__ = (
        "can_repeat",
        "cookies",
        "forwarded",
        "host",
        "host_name",
        "keep_alive",
        "length",
        "method",
        "minor_version",
        "rare",
        "request_id",
        "target",
        "upgrade",
    )

    def __init__(self, method: bytes, target: bytes, minor_version: int) -> None:
        self.method = method
        self.target = target
        self.minor_version = minor_version
        self.forwarded = b""
        self.host = b""
        self.host_name = ""  # lower case, without the port
        self.length = 0
        self.keep_alive = minor_version == 1
        # Executing it twice does no harm (RFC 9110 section 9.2.2), or its key sees to that.
        self.can_repeat = method in _IDEMPOTENT
        self.upgrade = b""
        self.cookies: list[bytes] | None = None
        self.request_id = b""
        self.rare: RareFields | None = None

    @property
    def expects_continue(self) -> bool:
        """True if the client holds its body back until it is told to go on."""
        return self.rare is not None and self.rare.expects_continue


class RareFields:
    """What few requests say: by way of other proxies, or with an expectation."""

    __slots__ = (
        "expects_continue",
        "forwarded_for",
        "forwarded_host",
        "forwarded_proto",
        "max_forwards",
        "via",
    )

    def __init__(self) -> None:
        self.expects_continue = False
        self.forwarded_for: list[bytes] = []
        self.forwarded_host = b""
        self.forwarded_proto = b""
        self.max_forwards: int | None = None
        self.via: list[bytes] = []


_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"))


class _Hosts(Memory[bytes, str]):
    """A Host value -> the name in lower case without the port, or "" if it is malformed."""

    def __missing__(self, value: bytes) -> str:
        match = _HOST.fullmatch(value)
        name = match["host"].decode("ascii").lower() if match else ""
        return self.remember(value, len(value), name)


_hosts = _Hosts(most=4096, longest=255)


class RequestParser(HeadParser[httptools.HttpRequestParser]):
    """Turns whole request heads into `RequestHead`s, one at a time.

    A client repeats its fields from request to request (HTTP/2 has HPACK for that). Those of
    requests without a body are remembered as they came, byte for byte, with what they mean, so
    that of the next such request only the first line is left to be read.
    """

    __slots__ = ("_most_fields", "_remembered")

    def __init__(self, limits: Limits) -> None:
        super().__init__(httptools.HttpRequestParser)
        self._most_fields = limits.header_count
        self._remembered: Memory[bytes, RequestHead] = Memory(most=1024, longest=2048)

    def parse(self, data: bytes) -> RequestHead:
        """`data`: one whole head, CRLF CRLF included. Raises RequestRefused."""
        line = _PLAIN_LINE(data)
        if line is None:
            return self._parse(data)
        fields = data[line.end() :]
        like = self._remembered.get(fields)
        if like is None:
            head = self._parse(data)
            if head.length == 0:
                kept = _copy(head, head.method, head.target)
                self._remembered.remember(fields, len(fields), kept)
            return head
        return _copy(like, *line.groups())

    def _parse(self, data: bytes) -> RequestHead:
        try:
            names, values = self.parse_fields(data)
        except httptools.HttpParserError as error:
            raise _explain(data, str(error)) from None
        if len(names) > self._most_fields:
            raise RequestRefused(431, f"more than {self._most_fields} header fields")
        method = self._llhttp.get_method()
        target = self.text()
        if data.startswith(b" HTTP/1.1\r\n", len(method) + 1 + len(target)):
            # What was parsed fills the line: single spaces, and nothing before or between.
            head = RequestHead(method, target, 1)
        else:
            head = RequestHead(method, target, _minor_version(data, method, target))
        _interpret(head, _plans[names], names, values)
        is_path = target[0] == _SLASH and b"#" not in target and len(target) <= TARGET_SIZE
        if not is_path or method in _NOT_SERVED:
            _decide_unusual_target(head)
        return head


# The first line of most requests without a body; all that llhttp would take it for, and no more.
_PLAIN_LINE = re.compile(rb"(GET|HEAD) (/[!\"$-~]{0,1000}) HTTP/1\.1\r\n").match


def _copy(head: RequestHead, method: bytes, target: bytes) -> RequestHead:
    """The same fields in another request. What they mean is never changed, only replaced."""
    copy = RequestHead(method, target, 1)
    copy.forwarded = head.forwarded
    copy.host = head.host
    copy.host_name = head.host_name
    copy.keep_alive = head.keep_alive
    copy.upgrade = head.upgrade
    copy.cookies = head.cookies
    copy.request_id = head.request_id
    copy.rare = head.rare
    return copy


def _explain(data: bytes, problem: str) -> RequestRefused:
    line = data[: data.find(b"\r\n")]
    if line.endswith((b" HTTP/2.0", b" HTTP/3.0")):
        return RequestRefused(505, "HTTP/1.1 is spoken here")
    if b"transfer-encoding" in data.lower() and "Transfer-Encoding" in problem:
        return RequestRefused(501, "the only transfer coding accepted is chunked")
    return RequestRefused(400, f"malformed request ({problem})")


def _minor_version(data: bytes, method: bytes, target: bytes) -> int:
    """The request line must be what was parsed from it, to the byte: single spaces, a version."""
    if data.startswith(b"\r\n"):  # one empty line is forgiven (RFC 9112 section 2.2)
        data = data[2:]
    start = method + b" " + target
    if data.startswith(b"HTTP/1.1\r\n", len(start) + 1) and data.startswith(start):
        return 1
    line = data[: data.find(b"\r\n")]
    if line == start + b" HTTP/1.0":
        return 0
    if line.startswith((start + b" HTTP/2", start + b" HTTP/3")):
        raise RequestRefused(505, "HTTP/1.1 is spoken here")
    raise RequestRefused(400, "malformed request line")


def _interpret(
    head: RequestHead, plan: Plan, names: tuple[bytes, ...], values: tuple[bytes, ...]
) -> None:
    """Read the fields that mean something to a proxy; refuse what is ambiguous."""
    if plan.host >= 0:
        head.host = host = values[plan.host]
        head.host_name = _hosts[host]
        if not head.host_name and host:
            raise RequestRefused(400, "malformed Host field")
    elif head.minor_version:
        raise RequestRefused(400, "exactly one Host field is needed")
    upgrade = _interpret_others(head, plan, values) if plan.others else b""
    if plan.content_length >= 0 or plan.transfer_encoding >= 0:
        _decide_framing(head, plan, values)
    if plan.has_idempotency_key:
        head.can_repeat = True
    if plan.connection >= 0:
        connection = connections[joined_connection(plan, values)]
        _apply_connection(head, connection, upgrade)
        if connection.nominated:
            plan = Plan(names, REQUEST_FIELDS, without=connection.nominated)
    head.forwarded = plan.forwarded(values)


def _interpret_others(head: RequestHead, plan: Plan, values: tuple[bytes, ...]) -> bytes:
    """The fields that most requests do not have -> the protocol of Upgrade, if any."""
    upgrade = b""
    for kind, position in plan.others:
        value = values[position]
        if kind == COOKIE:
            head.cookies = [*head.cookies, value] if head.cookies else [value]
        elif kind == UPGRADE:
            upgrade = upgrade + b"," + value if upgrade else value
        elif kind == HOST:
            raise RequestRefused(400, "exactly one Host field is needed")
        elif kind == CONTENT_LENGTH:
            raise RequestRefused(400, "several Content-Length fields")
        elif kind == TRANSFER_ENCODING:
            raise RequestRefused(400, "several Transfer-Encoding fields")
        elif kind != CONNECTION:
            _interpret_rare(head, kind, value)
    return upgrade


def _interpret_rare(head: RequestHead, kind: int, value: bytes) -> None:
    if kind == REQUEST_ID:
        if _REQUEST_ID.fullmatch(value) and not head.request_id:
            head.request_id = value
        return
    rare = head.rare
    if rare is None:
        head.rare = rare = RareFields()
    if kind == EXPECT:
        if value.lower() != b"100-continue":
            raise RequestRefused(417, "the only expectation understood is 100-continue")
        rare.expects_continue = head.minor_version == 1
    elif kind == VIA:
        rare.via.append(value)
    elif kind == FORWARDED_FOR:
        rare.forwarded_for.append(value)
    elif kind == FORWARDED_HOST:
        rare.forwarded_host = value
    elif kind == FORWARDED_PROTO:
        rare.forwarded_proto = value
    elif kind == MAX_FORWARDS and head.method == b"OPTIONS":
        # RFC 9110 section 7.6.2; in other methods it means nothing.
        hops = parse_content_length(value)
        if not hops:
            raise RequestRefused(400, "Max-Forwards is used up, or no number")
        rare.max_forwards = hops - 1


def _decide_framing(head: RequestHead, plan: Plan, values: tuple[bytes, ...]) -> None:
    """RFC 9112 section 6.3; where it allows two readings, refuse."""
    if plan.transfer_encoding < 0:
        length = parse_content_length(values[plan.content_length])
        if length is None:
            raise RequestRefused(400, "malformed Content-Length")
        head.length = length
        return
    if plan.content_length >= 0:
        raise RequestRefused(400, "Content-Length together with Transfer-Encoding")
    if head.minor_version == 0:
        raise RequestRefused(400, "Transfer-Encoding in HTTP/1.0")
    if values[plan.transfer_encoding].lower() != b"chunked":
        raise RequestRefused(501, "the only transfer coding accepted is chunked")
    head.length = CHUNKED


def _apply_connection(head: RequestHead, connection: Connection, upgrade: bytes) -> None:
    if connection.close:
        head.keep_alive = False
    elif connection.keep_alive:
        head.keep_alive = True
    if connection.upgrade and head.minor_version == 1:
        # Only what runs in a tunnel: h2c would turn this hop into one that we can't read.
        protocol = upgrade.strip().lower()
        if protocol == b"websocket" and head.method == b"GET" and head.length == 0:
            head.upgrade = protocol


_NOT_SERVED = frozenset((b"CONNECT", b"TRACE"))
_SLASH = ord("/")


def _decide_unusual_target(head: RequestHead) -> None:
    """Methods and targets other than a path of a reasonable length."""
    target = head.target
    if head.method == b"CONNECT":
        raise RequestRefused(405, "this is not a forward proxy: CONNECT is not served")
    if head.method == b"TRACE":
        raise RequestRefused(405, "TRACE is not served")
    if len(target) > TARGET_SIZE:
        raise RequestRefused(414, f"the request target is longer than {TARGET_SIZE} bytes")
    if b"#" in target:
        raise RequestRefused(400, "a fragment in the request target")
    if match := _ABSOLUTE_FORM.fullmatch(target):
        # RFC 9112 section 3.2.2: the target's authority replaces the Host field.
        head.host, rest = match.groups()
        head.host_name = _hosts[head.host]
        if not head.host_name:
            raise RequestRefused(400, "malformed authority in the request target")
        head.target = rest if rest.startswith(b"/") else b"/" + rest
    elif target != b"*" or head.method != b"OPTIONS":
        raise RequestRefused(400, "malformed request target")
