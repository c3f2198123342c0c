"""A response head: bytes -> `ResponseHead`, or InvalidResponse. No I/O.

Servers are trusted more than clients, but not with framing: a response that can be read in two
ways would hand one client another's bytes.
"""

from __future__ import annotations

import re
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING

import httptools

from hermes_lb.errors import InvalidResponse
from hermes_lb.http.bounded_cache import BoundedCache
from hermes_lb.http.fields import (
    CONTENT_LENGTH,
    RESPONSE_FIELDS,
    SET_COOKIE,
    TRANSFER_ENCODING,
    UPGRADE,
    Connection,
    HeaderPlan,
    HeaderPlans,
    connections,
    joined_connection,
    kind_of,
    parse_content_length,
)
from hermes_lb.http.head import HeadParser
from hermes_lb.http.recurring_cache import PATIENCE, RecurringCache
from hermes_lb.http.request import CHUNKED
from hermes_lb.http.varying_lines import Values, VaryingLines, template
from hermes_lb.http.version import HTTP10, HTTP11

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    _Pick = Callable[[tuple[bytes, ...]], tuple[bytes, ...]]

_LATER_MINOR = re.compile(rb"(?:\r\n)?HTTP/1\.[2-9] ").match
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*").fullmatch  # RFC 9112 section 4
# Behind its last body a server may have sent an empty line too many, which comes before its next
# status line then. One is forgiven, as before a request line (RFC 9112 section 2.2); HAProxy
# forgives any number.
STRAY_LINE = b"\r\n"
_LONGEST = 1024  # bytes of a head that may be cached
UNTIL_CLOSE = -2  # a body's length where only the end of the connection ends it


class _StatusLines(BoundedCache[tuple[int, bytes], bytes]):
    """Status and reason phrase -> the status line. Servers choose the phrase, of any length."""

    def __missing__(self, key: tuple[int, bytes]) -> bytes:
        return self.remember(key, len(key[1]), b"HTTP/1.1 %d %b\r\n" % key)


_status_lines = _StatusLines(most=1024, longest=64)


class ResponseHead:
    """A parsed response head, with its forwarded form. Immutable.

    `names` and `values` are its fields; `forwarded` has those that pass as they are, each with its
    CRLF, and `forwarded_without` leaves out some more. `has_date`: a Date is among them.
    `length` is what the head says of the body: bytes, `CHUNKED` or `UNTIL_CLOSE`. Whether there is
    a body at all, the method and the status decide: `body_length`.

    Three are derived once, as a cached head serves many requests: `status_line` and `length_line`,
    as we send them (`forward`); `storable`: may a cache store it, by whether the request's method
    is one of those in question (`affinity.cookie`).
    """

    __slots__ = (
        "forwarded",
        "has_date",
        "has_set_cookie",
        "keep_alive",
        "length",
        "length_line",
        "names",
        "nominated",
        "plan",
        "reason",
        "status",
        "status_line",
        "storable",
        "upgrade",
        "values",
        "version",
    )

    def __init__(
        self,
        status: int,
        reason: bytes,
        version: int,
        names: tuple[bytes, ...],
        values: tuple[bytes, ...],
        plan: HeaderPlan,
    ) -> None:
        self.status = status
        self.reason = reason
        self.status_line = _status_lines[status, reason]
        self.version = version
        self.names = names
        self.values = values
        self.plan = plan
        self.keep_alive = version == HTTP11
        self.length = UNTIL_CLOSE
        self.length_line = b""
        self.upgrade = b""
        self.has_set_cookie = False
        self.has_date = plan.has_date
        self.forwarded = b""
        self.nominated: Collection[bytes] = ()
        self.storable: dict[bool, bool] = {}

    def body_length(self, method: bytes) -> int:
        """The length of the body that follows: RFC 9112 section 6.3, rules 1 and 4 to 8."""
        status = self.status
        if method == b"HEAD" or status < 200 or status in (204, 304):
            return 0
        return self.length

    def fields(self) -> Iterator[tuple[bytes, bytes]]:
        """All (name, value), the ones that are not forwarded too."""
        return zip(self.names, self.values, strict=True)

    def cache_fields(self) -> tuple[tuple[bytes, bytes], ...]:
        """(name in lower case, value) of what a shared cache goes by; of validators, one name."""
        plan = self.plan
        validators = ((b"etag", b""),) if plan.has_validator else ()
        return (*((name, self.values[i]) for name, i in plan.cache_fields), *validators)

    @property
    def is_event_stream(self) -> bool:
        return any(
            name.lower() == b"content-type" and value.lower().startswith(b"text/event-stream")
            for name, value in self.fields()
        )

    @property
    def has_plain_events(self) -> bool:
        """False for a compressed stream: an intermediary can't see where its events end."""
        return self.is_event_stream and all(
            value.strip().lower() == b"identity"
            for name, value in self.fields()
            if name.lower() == b"content-encoding"
        )

    def forwarded_without(self, positions: Collection[int]) -> bytes:
        """`forwarded`, without the fields at these positions of `names`."""
        plan = HeaderPlan(self.names, RESPONSE_FIELDS, without=self.nominated, omit=positions)
        return plan.forwarded(self.values)


class ResponseParser(HeadParser[httptools.HttpResponseParser]):
    """Turns whole response heads into `ResponseHead`s, one at a time.

    Servers send the same head to many clients: within a second, those of all event streams, of all
    answers of one length. So heads that recur, as a whole or but for a few lines, are cached by
    their bytes.
    """

    __slots__ = ("_kept", "_most_fields", "_remembered", "_varying")

    def __init__(self, most_fields: int, kept: frozenset[bytes] = frozenset()) -> None:
        """`kept`: as for a `RequestParser`."""
        super().__init__(httptools.HttpResponseParser)
        self._kept = kept
        self._most_fields = most_fields
        self._remembered: RecurringCache[ResponseHead] = RecurringCache(most=128, room=128 * 1024)
        self._varying: VaryingLines[_Pattern] = VaryingLines(_may_vary)

    def parse(self, data: bytes) -> ResponseHead:
        """`data`: one whole head, CRLF CRLF included. Raises InvalidResponse."""
        if len(data) > _LONGEST:
            return self._parse(data)
        heads = self._remembered
        is_sought = heads.misses <= PATIENCE or not heads.is_skipped()
        if is_sought:
            head = heads.recent.get(data)
            if head is not None:
                heads.misses = 0
                return head
            head = heads.find(data)
            if head is not None:
                return head
        elif self._varying.misses > PATIENCE:
            return self._parse(data)
        found = self._varying.find(data)
        if found is not None:
            pattern, values = found
            head = pattern.filled(values)
            if is_sought and heads.recurs(data):  # of this second, for example
                heads.store(data, head)
            return head
        head = self._parse(data)
        if is_sought:
            if heads.recurs(data):
                heads.store(data, head)
            else:
                self._varying.offer(data, partial(_pattern, head))
        return head

    def _parse(self, data: bytes) -> ResponseHead:
        try:
            names, values = self.parse_fields(data)
        except httptools.HttpParserError as error:
            if later := _LATER_MINOR(data):  # HTTP/1.2 and so on include 1.1 (RFC 9110 section 2.5)
                return self._parse(b"HTTP/1.1" + data[later.end() - 1 :])
            if "Pause on" in str(error):  # llhttp takes a 101 for the end of HTTP, which it isn't
                raise InvalidResponse("101 without an Upgrade field") from None
            raise InvalidResponse(f"malformed response ({error})") from None
        if len(names) > self._most_fields:
            raise InvalidResponse(f"more than {self._most_fields} header fields")
        status = self._llhttp.get_status_code()
        if not 100 <= status <= 599:
            raise InvalidResponse(f"status {status}")
        reason = self.text()
        if not reason.isalpha() and not _REASON(reason):
            raise InvalidResponse("a control character in the reason phrase")
        version = HTTP11 if data.startswith(b"HTTP/1.1 ") else _version(data)
        plan = _plans[names]
        head = ResponseHead(status, reason, version, names, values, plan)
        if plan.transfer_encoding >= 0:
            _decide_chunked(head, plan, values)
        elif plan.content_length >= 0:
            length = parse_content_length(values[plan.content_length])
            if length is None:
                raise InvalidResponse("malformed Content-Length")
            head.length = length
            if status >= 200 and status != 204:
                head.length_line = b"Content-Length: %d\r\n" % length
        if plan.others:
            _interpret_others(head, plan, values)
        if plan.connection >= 0:
            connection = connections[joined_connection(plan, values)]
            plan = _apply_connection(head, plan, connection, self._kept)
        head.forwarded = plan.forwarded(values)
        return head


def _may_vary(name: bytes) -> bool:
    """True for the fields that are only forwarded."""
    return kind_of(name, RESPONSE_FIELDS) is None


class _Pattern:
    """A head of which some lines vary: `pick` puts their values among those of the others, and
    `forwarded` is a template of them."""

    __slots__ = ("_forwarded", "_like", "_pick")

    def __init__(self, like: ResponseHead, forwarded: bytes, pick: _Pick) -> None:
        self._like = like
        self._forwarded = forwarded
        self._pick = pick

    def filled(self, values: Values) -> ResponseHead:
        """The head with these values."""
        like = self._like
        fields = self._pick(like.values + values)
        head = ResponseHead(like.status, like.reason, like.version, like.names, fields, like.plan)
        head.keep_alive = like.keep_alive
        head.length = like.length
        head.length_line = like.length_line
        head.storable = like.storable
        head.upgrade = like.upgrade
        head.has_set_cookie = like.has_set_cookie
        head.has_date = like.has_date
        head.forwarded = self._forwarded % values
        head.nominated = like.nominated
        return head


def _pattern(head: ResponseHead, names: Values, values: Values) -> _Pattern | None:
    """None if a value of `head` is not forwarded."""
    forwarded = template(head.forwarded, names, values)
    if forwarded is None:
        return None
    size = len(head.names)
    places = list(range(size))
    for number, name in enumerate(names, size):
        places[head.names.index(name)] = number
    # Of one place it would make no tuple.
    pick = itemgetter(*places) if size > 1 else itemgetter(slice(1, 2))
    return _Pattern(head, forwarded, pick)


def _version(data: bytes) -> int:
    start = 2 if data.startswith(STRAY_LINE) else 0
    if data.startswith(b"HTTP/1.1 ", start):
        return HTTP11
    if data.startswith(b"HTTP/1.0 ", start):
        return HTTP10
    raise InvalidResponse("the response is not HTTP/1.0 or 1.1")


def _decide_chunked(head: ResponseHead, plan: HeaderPlan, values: tuple[bytes, ...]) -> None:
    coding = values[plan.transfer_encoding].lower()
    if plan.content_length >= 0 or coding != b"chunked" or head.version == HTTP10:
        raise InvalidResponse("Transfer-Encoding that can be read in two ways")
    head.length = CHUNKED


def _interpret_others(head: ResponseHead, plan: HeaderPlan, values: tuple[bytes, ...]) -> None:
    for kind, position in plan.others:
        if kind == SET_COOKIE:
            head.has_set_cookie = True
        elif kind == UPGRADE:
            head.upgrade = values[position]
        elif kind == CONTENT_LENGTH:
            raise InvalidResponse("several Content-Length fields")
        elif kind == TRANSFER_ENCODING:
            raise InvalidResponse("several Transfer-Encoding fields")


def _apply_connection(
    head: ResponseHead, plan: HeaderPlan, options: Connection, kept: frozenset[bytes]
) -> HeaderPlan:
    head.keep_alive = not options.close and (options.keep_alive or head.keep_alive)
    if not options.nominated:
        return plan
    head.nominated = options.nominated - kept
    plan = HeaderPlan(head.names, RESPONSE_FIELDS, without=head.nominated)
    head.has_date = plan.has_date
    return plan


_plans = HeaderPlans(RESPONSE_FIELDS)
