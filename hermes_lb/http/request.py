"""A request head: bytes -> `RequestHead`, or a refusal. No I/O.

llhttp checks the syntax; ambiguous heads that it accepts are refused here.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final

import httptools

from hermes_lb.errors import RequestRefused
from hermes_lb.http.fields import (
    BLANKS,
    CONNECTION,
    CONTENT_LENGTH,
    COOKIE,
    EXPECT,
    FORWARDED,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_MORE,
    FORWARDED_PROTO,
    HOST,
    MAX_FORWARDS,
    REQUEST_FIELDS,
    REQUEST_ID,
    TE,
    TRACEPARENT,
    TRANSFER_ENCODING,
    UPGRADE,
    VIA,
    Connection,
    HeaderPlan,
    HeaderPlans,
    connections,
    joined_connection,
    kind_of,
    parse_content_length,
    selecting,
)
from hermes_lb.http.head import HeadParser
from hermes_lb.http.recurring_cache import PATIENCE, RecurringCache
from hermes_lb.http.rules import (
    as_http11,
    explain,
    host_names,
    is_websocket_handshake,
    refused_coding,
    request_line,
    split_absolute,
)
from hermes_lb.http.trace_context import TRACE_FIELDS, trace_id_of
from hermes_lb.http.varying_lines import Values, VaryingLines, template
from hermes_lb.http.version import HTTP10, HTTP11

if TYPE_CHECKING:
    from hermes_lb.http.limits import HeadLimits

CHUNKED: Final = -1  # a body's length where it is chunked

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_plans = HeaderPlans(REQUEST_FIELDS)


class RequestFields:
    """The meaning of the fields of a request, apart from its body's length.

    `forwarded` has the fields that pass as they are, each with its CRLF.
    """

    __slots__ = (
        "cookies",
        "forwarded",
        "host",
        "host_name",
        "keep_alive",
        "rare",
        "request_id",
        "trace_id",
        "upgrade",
    )

    def __init__(self) -> None:
        self.forwarded = b""
        self.host = b""
        self.host_name = ""  # lower case, without the port
        self.keep_alive = True
        self.upgrade = b""
        self.cookies: list[bytes] | None = None
        self.request_id = b""
        self.trace_id = b""
        self.rare: RareFields | None = None


_NO_FIELDS: Final = RequestFields()


class RequestHead(RequestFields):
    """A request as it will be understood, routed and forwarded.

    `length` is the body's length in bytes, `CHUNKED`, or 0 for none; `stream` the number of its
    stream of HTTP/2, or 0.
    """

    __slots__ = ("can_repeat", "length", "method", "stream", "target", "version")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        version: int,
        length: int = 0,
        fields: RequestFields = _NO_FIELDS,
    ) -> None:
        """With the same fields as another request, which are never changed, only replaced."""
        self.method = method
        self.target = target
        self.version = version
        self.stream = 0
        self.length = length
        # Executing it twice does no harm (RFC 9110 section 9.2.2), or its key sees to that.
        self.can_repeat = method in _IDEMPOTENT
        self.forwarded = fields.forwarded
        self.host = fields.host
        self.host_name = fields.host_name
        self.keep_alive = fields.keep_alive
        self.upgrade = fields.upgrade
        self.cookies = fields.cookies
        self.request_id = fields.request_id
        self.trace_id = fields.trace_id
        self.rare = fields.rare

    @property
    def expects_continue(self) -> bool:
        """True if the client holds its body back until it receives a 100."""
        return self.rare is not None and self.rare.expects_continue

    @property
    def takes_trailers(self) -> bool:
        """True if the client has said so (RFC 9110 section 10.1.4)."""
        return self.rare is not None and self.rare.takes_trailers


class RareFields:
    """What few requests say: by way of other proxies, with an expectation, or of trailers.

    `forwarded_more`: field lines of other X-Forwarded-* fields. `hops_left`: of Max-Forwards in
    OPTIONS and TRACE, where 0 is for us to answer (RFC 9110 section 7.6.2).
    """

    __slots__ = (
        "expects_continue",
        "forwarded",
        "forwarded_for",
        "forwarded_host",
        "forwarded_more",
        "forwarded_proto",
        "hops_left",
        "takes_trailers",
        "via",
    )

    def __init__(self) -> None:
        self.expects_continue = False
        self.forwarded_for: list[bytes] = []
        self.forwarded_host = b""
        self.forwarded_proto = b""
        self.forwarded: list[bytes] = []
        self.forwarded_more: list[bytes] = []
        self.hops_left: int | None = None
        self.takes_trailers = False
        self.via: list[bytes] = []


_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"))


class RequestParser(HeadParser[httptools.HttpRequestParser]):
    """Turns whole request heads into `RequestHead`s, one at a time.

    A client repeats its fields from request to request (HTTP/2 has HPACK for that), but for the
    length of a body, and for ids. Blocks of fields that recur, as a whole or but for a few lines,
    are cached by their bytes, with their meaning, so that only the first line, the length and the
    varying values have to be read; of whole heads that recur, nothing. All others are read by
    llhttp.
    """

    __slots__ = (
        "_kept",
        "_longest_target",
        "_most_fields",
        "_plans",
        "_same",
        "_varying_with_length",
        "_varying_without_body",
        "_with_length",
        "_without_body",
    )

    def __init__(self, limits: HeadLimits, kept: frozenset[bytes] = frozenset()) -> None:
        """`kept`: names, in lower case, that no Connection field takes away: what decides here
        where a request goes is for all recipients (RFC 9110 section 7.6.1)."""
        super().__init__(httptools.HttpRequestParser)
        self._kept = kept
        self._plans = HeaderPlans(selecting(REQUEST_FIELDS, kept)) if kept else None
        self._most_fields = limits.header_count
        self._longest_target = limits.target_size
        # Whole heads, of those whose block is cached. They are never handed out, only copied.
        self._same: RecurringCache[RequestHead] = RecurringCache(most=512, room=256 * 1024)
        # Blocks begin with the end of the line before them: each line has its opening then.
        self._without_body: RecurringCache[RequestFields] = RecurringCache(
            most=512, room=256 * 1024
        )
        # Blocks of which the digits of the length are cut out. Apart from the others, where the
        # same bytes are a block with an empty length, which is refused.
        self._with_length: RecurringCache[RequestFields] = RecurringCache(most=512, room=256 * 1024)
        self._varying_without_body: VaryingLines[_Pattern] = VaryingLines(_may_vary)
        self._varying_with_length: VaryingLines[_Pattern] = VaryingLines(_may_vary)

    def parse(self, data: bytes) -> RequestHead:
        """`data`: one whole head, CRLF CRLF included. Raises RequestRefused."""
        if len(data) > _LONGEST:
            return self._parse(data)
        same = self._same
        is_looked_up = same.misses <= PATIENCE or not same.is_skipped()
        if is_looked_up:
            whole = same.recent.get(data)
            if whole is not None:
                same.misses = 0
            else:
                whole = same.find(data)
            if whole is not None:
                return RequestHead(whole.method, whole.target, HTTP11, whole.length, whole)
        line = _PLAIN_LINE(data)
        if line is None:
            return self._parse(data)
        method, target = _METHODS[line[1]], line[2]
        has_body = method != b"GET" and method != b"HEAD"
        blocks = self._with_length if has_body else self._without_body
        is_sought = blocks.misses <= PATIENCE or not blocks.is_skipped()
        varying = self._varying_with_length if has_body else self._varying_without_body
        if not is_sought and varying.misses > PATIENCE:
            return self._parse(data, line)
        key, length = data[line.end() - 2 :], 0
        if has_body:
            cut = _without_length(key)
            if cut is None:
                return self._parse(data, line)
            key, length = cut
        if is_sought:
            like = blocks.recent.get(key)
            if like is not None:
                blocks.misses = 0
            else:
                like = blocks.find(key)
            if like is not None:
                if is_looked_up and same.recurs(data):
                    same.store(data, RequestHead(method, target, HTTP11, length, like))
                return RequestHead(method, target, HTTP11, length, like)
        found = varying.find(key)
        if found is not None:
            pattern, values = found
            head = pattern.filled(method, target, length, values)
            if head is not None:
                # It may come again as a whole, from this client for example.
                if is_sought and blocks.recurs(key) and not _method_matters(key):
                    blocks.store(key, RequestHead(method, target, HTTP11, length, head))
                return head
        head = self._parse(data, line)
        if is_sought and head.length == length:
            if not blocks.recurs(key):
                varying.offer(key, partial(_pattern, head, key))
            elif not _method_matters(key):
                blocks.store(key, RequestHead(method, target, HTTP11, length, head))
        return head

    def _parse(self, data: bytes, line: re.Match[bytes] | None = None) -> RequestHead:
        """By llhttp. `line`: the first line, if it is a plain one."""
        try:
            names, values = self.parse_fields(data)
        except httptools.HttpParserError as error:
            if (same := as_http11(data)) is not None:
                return self._parse(same)
            raise explain(data, str(error)) from None
        if line is None:
            method, target = self._llhttp.get_method(), self.text()
            if len(target) > self._longest_target:
                raise self._target_too_long()
        else:
            method, target = _METHODS[line[1]], line[2]
        if len(names) > self._most_fields:
            raise RequestRefused(431, f"more than {self._most_fields} header fields")
        version = HTTP11 if line is not None else _version(data, method, target)
        head = RequestHead(method, target, version)
        head.keep_alive = version == HTTP11
        plans = _plans if self._plans is None else self._plans
        _interpret(head, plans[names], names, values, self._kept)
        if target[0] != _SLASH or b"#" in target or method == b"CONNECT":
            _decide_unusual_target(head)
        return head

    def too_large(self, data: bytes | bytearray) -> RequestRefused:
        """Why `data`, a head or the beginning of one, is larger than heads may be.

        A target that is too long is reported as such, whatever follows it, and whether its end
        has arrived or not (RFC 9112 section 3).
        """
        line, is_whole = request_line(data)
        _, space, rest = line.partition(b" ")
        target, space_behind, _ = rest.partition(b" ")
        is_endless = space and not (space_behind or is_whole)
        if is_endless or len(target) > self._longest_target:
            return self._target_too_long()
        return RequestRefused(431, "the request head is too large")

    def _target_too_long(self) -> RequestRefused:
        return RequestRefused(414, f"a request target longer than {self._longest_target} bytes")


# What OPTIONS and TRACE mean depends on more than the first line. One object for each method, since
# a request lives for as long as its response streams.
_METHODS = {each: each for each in (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE")}
# The first line of most requests; all that llhttp would take it for, and no more. The target is
# shorter than any limit.
_PLAIN_LINE = re.compile(
    rb"(" + b"|".join(_METHODS) + rb") (/[!\"$-~]{0,1000}) HTTP/1\.1\r\n"
).match
_LONGEST = 2048  # bytes of a head that may be cached
_LENGTH = b"\r\nContent-Length: "
_LENGTH_IN_LOWER_CASE = _LENGTH.lower()


def _without_length(block: bytes) -> tuple[bytes, int] | None:
    """The block without the digits of its length, and these; None: it has none that is plain."""
    start = block.find(_LENGTH)
    if start < 0:
        start = block.find(_LENGTH_IN_LOWER_CASE)
        if start < 0:
            return None
    start += len(_LENGTH)
    end = block.find(b"\r\n", start)
    length = parse_content_length(block[start:end])
    return None if length is None else (block[:start] + block[end:], length)


def _method_matters(block: bytes) -> bool:
    """True if what the fields mean depends on the method: a tunnel, a repetition."""
    lower = block.lower()
    return b"upgrade" in lower or b"idempotency-key" in lower


def _may_vary(name: bytes) -> bool:
    """True for the fields whose value is only forwarded, and for those that `_Pattern` reads."""
    return kind_of(name, REQUEST_FIELDS) in (None, REQUEST_ID, TRACEPARENT)


class _Pattern:
    """The meaning of fields of which some lines vary; `forwarded` is a template of their values.

    `request_id` and `traceparent`: the places of these among the values, or -1.
    """

    __slots__ = ("_forwarded", "_like", "_request_id", "_traceparent")

    def __init__(
        self, like: RequestHead, forwarded: bytes, request_id: int, traceparent: int
    ) -> None:
        self._like = like
        self._forwarded = forwarded
        self._request_id = request_id
        self._traceparent = traceparent

    def filled(
        self, method: bytes, target: bytes, length: int, values: Values
    ) -> RequestHead | None:
        """A request with these values; None if one of them changes what the others mean."""
        head = RequestHead(method, target, HTTP11, length, self._like)
        head.forwarded = self._forwarded % values
        if self._request_id >= 0:
            head.request_id = values[self._request_id]
            if not _REQUEST_ID.fullmatch(head.request_id):
                return None
        if self._traceparent >= 0:
            head.trace_id = trace_id_of((values[self._traceparent],))
            if not head.trace_id:
                return None
        return head


def _pattern(head: RequestHead, block: bytes, names: Values, values: Values) -> _Pattern | None:
    """None if a value of `head` does more than to be in its place, or the method matters."""
    if _method_matters(block):
        return None
    lower = [name.lower() for name in names]
    request_id = lower.index(b"x-request-id") if b"x-request-id" in lower else -1
    traceparent = lower.index(b"traceparent") if b"traceparent" in lower else -1
    forwarded = template(head.forwarded, names, values, dropped=b"x-request-id")
    if (
        forwarded is None
        or (request_id >= 0 and head.request_id != values[request_id])
        or (traceparent >= 0 and not head.trace_id)
    ):
        return None
    like = RequestHead(head.method, head.target, HTTP11, head.length, head)
    return _Pattern(like, forwarded, request_id, traceparent)


def _version(data: bytes, method: bytes, target: bytes) -> int:
    """The request line must be what was parsed from it, to the byte: single spaces, a version."""
    if data.startswith(b"\r\n"):  # one empty line is forgiven (RFC 9112 section 2.2)
        data = data[2:]
    start = method + b" " + target
    if data.startswith(b"HTTP/1.1\r\n", len(start) + 1) and data.startswith(start):
        return HTTP11
    line = data[: data.find(b"\r\n")]
    if line == start + b" HTTP/1.0":
        return HTTP10
    if line.startswith((start + b" HTTP/2", start + b" HTTP/3")):
        raise RequestRefused(505, "HTTP/1.1 is spoken here")
    raise RequestRefused(400, "malformed request line")


def _interpret(
    head: RequestHead,
    plan: HeaderPlan,
    names: tuple[bytes, ...],
    values: tuple[bytes, ...],
    kept: frozenset[bytes],
) -> None:
    """Read the fields that mean something to a proxy; refuse what is ambiguous."""
    if plan.host >= 0:
        head.host = host = values[plan.host]
        head.host_name = host_names[host]
        if not head.host_name and host:
            raise RequestRefused(400, "malformed Host field")
    elif head.version == HTTP11:
        raise RequestRefused(400, "no Host field")
    upgrade = _interpret_others(head, plan, names, values) if plan.others else b""
    if plan.content_length >= 0 or plan.transfer_encoding >= 0:
        _decide_framing(head, plan, values)
    if plan.has_idempotency_key:
        head.can_repeat = True
    without: frozenset[bytes] = frozenset()
    if plan.connection >= 0:
        connection = connections[joined_connection(plan, values)]
        _apply_connection(head, connection, upgrade, names, values)
        if connection.nominated:
            without = connection.nominated - kept
    if plan.traceparents is not None:
        head.trace_id = trace_id_of([values[i] for i in plan.traceparents])
        if not head.trace_id:
            without |= TRACE_FIELDS
    if head.method == b"TRACE" or (head.rare is not None and head.rare.hops_left is not None):
        without |= _decide_for_trace(head)
    if without:
        plan = HeaderPlan(names, plan.known, without=without)
    head.forwarded = plan.forwarded(values)


def _interpret_others(
    head: RequestHead, plan: HeaderPlan, names: tuple[bytes, ...], values: tuple[bytes, ...]
) -> bytes:
    """The fields that most requests do not have -> the protocol of Upgrade, if any."""
    upgrade = b""
    for kind, position in plan.others:
        value = values[position]
        if kind == COOKIE:
            head.cookies = [*head.cookies, value] if head.cookies else [value]
        elif kind == UPGRADE:
            upgrade = upgrade + b"," + value if upgrade else value
        elif kind == HOST:
            raise RequestRefused(400, "several Host fields")
        elif kind == CONTENT_LENGTH:
            raise RequestRefused(400, "several Content-Length fields")
        elif kind == TRANSFER_ENCODING:
            raise RequestRefused(400, "several Transfer-Encoding fields")
        elif kind != CONNECTION:
            _interpret_rare(head, kind, names[position], value)
    return upgrade


def _interpret_rare(head: RequestHead, kind: int, name: bytes, value: bytes) -> None:
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
        rare.expects_continue = head.version == HTTP11
    elif kind == TE:
        options = [option.strip(BLANKS) for option in value.lower().split(b",")]
        if b"trailers" in options:
            rare.takes_trailers = head.version == HTTP11
    elif kind == VIA:
        rare.via.append(value)
    elif kind == FORWARDED_FOR:
        rare.forwarded_for.append(value)
    elif kind == FORWARDED_HOST:
        rare.forwarded_host = value
    elif kind == FORWARDED_PROTO:
        rare.forwarded_proto = value
    elif kind == FORWARDED:
        rare.forwarded.append(value)
    elif kind == FORWARDED_MORE:
        rare.forwarded_more.append(b"%b: %b\r\n" % (name, value))
    elif kind == MAX_FORWARDS and head.method in (b"OPTIONS", b"TRACE"):
        # RFC 9110 section 7.6.2; in other methods it means nothing to us.
        hops = parse_content_length(value)
        if hops is None or rare.hops_left is not None:
            raise RequestRefused(400, "malformed Max-Forwards")
        rare.hops_left = hops


_CREDENTIALS = frozenset((b"authorization",))  # and cookies, which are kept apart


def _decide_for_trace(head: RequestHead) -> frozenset[bytes]:
    """-> fields that are not forwarded as they are, for a method that counts its hops."""
    if head.method != b"TRACE":
        return frozenset((b"max-forwards",))
    if head.length:
        raise RequestRefused(400, "TRACE with a body")  # RFC 9110 section 9.3.8
    head.cookies = None
    return _CREDENTIALS | {b"max-forwards"}


def _decide_framing(head: RequestHead, plan: HeaderPlan, values: tuple[bytes, ...]) -> None:
    """RFC 9112 section 6.3; where it allows two readings, refuse."""
    if plan.transfer_encoding < 0:
        length = parse_content_length(values[plan.content_length])
        if length is None:
            raise RequestRefused(400, "malformed Content-Length")
        head.length = length
        return
    if plan.content_length >= 0:
        raise RequestRefused(400, "Content-Length together with Transfer-Encoding")
    if head.version == HTTP10:
        raise RequestRefused(400, "Transfer-Encoding in HTTP/1.0")
    coding = values[plan.transfer_encoding]
    if coding.lower() != b"chunked":
        raise refused_coding([coding])
    head.length = CHUNKED


def _apply_connection(
    head: RequestHead,
    connection: Connection,
    upgrade: bytes,
    names: tuple[bytes, ...],
    values: tuple[bytes, ...],
) -> None:
    if connection.close:
        head.keep_alive = False
    elif connection.keep_alive:
        head.keep_alive = True
    if connection.upgrade and head.version == HTTP11:
        # Only protocols that run in a tunnel: h2c would make this hop unreadable for us.
        # An invalid handshake is passed on as a plain request, for the server to refuse.
        protocol = upgrade.lower()
        if (
            protocol == b"websocket"
            and head.method == b"GET"
            and head.length == 0
            and is_websocket_handshake(zip(names, values, strict=True))
        ):
            head.upgrade = protocol


_SLASH = ord("/")


def _decide_unusual_target(head: RequestHead) -> None:
    """CONNECT, and targets other than a path."""
    target = head.target
    if head.method == b"CONNECT":
        raise RequestRefused(405, "this is not a forward proxy: CONNECT is not served")
    if b"#" in target:
        raise RequestRefused(400, "a fragment in the request target")
    if absolute := split_absolute(head.method, target):
        # RFC 9112 section 3.2.2: the target's authority replaces the Host field.
        head.host, head.target = absolute
        head.host_name = host_names[head.host]
        if not head.host_name:
            raise RequestRefused(400, "malformed authority in the request target")
    elif target != b"*" or head.method != b"OPTIONS":
        raise RequestRefused(400, "malformed request target")
