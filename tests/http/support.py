"""What the HTTP/1 tests share: tables, ways to cut bytes, and the referees.

The referees are h11 (strict, and written by other people) and httptools, which the code under
test uses itself and which therefore only judges what we send.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import h11
import httptools
import pytest
from hypothesis import HealthCheck, settings

from hermes_lb.config import Limits
from hermes_lb.errors import InvalidResponse, RequestRefused
from hermes_lb.http import (
    RequestHead,
    RequestParser,
    ResponseParser,
    build_request,
    build_response,
    identity_fields,
)
from hermes_lb.http.head import HeadParser

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from _pytest.mark import ParameterSet

    from hermes_lb.http import Body, ResponseHead
    from hermes_lb.http.head import Fields

MOST_FIELDS = 100
NEXT = b"GET /next HTTP/1.1\r\nHost: n\r\n\r\n"  # what may come behind a message


def examples(number: int) -> settings:
    """Settings of a property test; no deadline, for a loaded machine is not a bug."""
    return settings(
        deadline=None, max_examples=number, suppress_health_check=[HealthCheck.too_slow]
    )


def row(name: str, *values: object) -> ParameterSet:
    """A line of a table."""
    return pytest.param(*values, id=name)


# Heads: bytes in, what comes out.

# With `Connection: Upgrade` and `Upgrade: websocket` these open a WebSocket (RFC 6455, 1.3).
HANDSHAKE = (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


def request(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a") -> bytes:
    """A request head with these field lines, and a Host."""
    return b"".join(part + b"\r\n" for part in (line, host, *fields, b""))


def response(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """A response head with these field lines."""
    return b"".join(part + b"\r\n" for part in (line, *fields, b""))


def request_parser() -> RequestParser:
    return RequestParser(Limits(header_count=MOST_FIELDS))


def response_parser() -> ResponseParser:
    return ResponseParser(MOST_FIELDS)


def parse_request(data: bytes) -> RequestHead:
    """What a parser that has seen nothing else makes of it."""
    return request_parser().parse(data)


def parse_response(data: bytes) -> ResponseHead:
    """What a parser that has seen nothing else makes of it."""
    return response_parser().parse(data)


def outcome(parser: RequestParser | ResponseParser, data: bytes) -> dict[str, object]:
    """All that `parse` tells, in a form that can be compared. Other exceptions pass through."""
    try:
        head: Any = parser.parse(data)
    except RequestRefused as error:
        return {"refused": error.status, "reason": error.reason}
    except InvalidResponse as error:
        return {"invalid": str(error)}
    told = {name: getattr(head, name) for name in type(head).__slots__}
    plain = {name: value for name, value in told.items() if isinstance(value, _PLAIN)}
    return plain | {"sent": forward(head) if isinstance(head, RequestHead) else answer(head)}


_PLAIN = (int, bytes, str, list, tuple, type(None))


def answer(
    head: ResponseHead,
    method: bytes = b"GET",
    *,
    to_http11: bool = True,
    keep_alive: bool = True,
    added: bytes = b"",
    without: tuple[int, ...] = (),
) -> bytes:
    """The head as a client that sent `method` would get it."""
    return build_response(
        head,
        head.forwarded_without(without) if without else head.forwarded,
        to_http11=to_http11,
        keep_alive=keep_alive,
        body_length=head.body_length(method),
        added=added,
    )


def forward(head: RequestHead) -> bytes:
    """The head as a server would get it, from a client at 192.0.2.1 whom nobody trusts."""
    head.request_id = head.request_id or b"new-id"
    return build_request(
        head,
        host=head.host or b"backend",
        identity=identity_fields("192.0.2.1", b"http"),
        forwarded_host=head.host,
        via=b"1.1 lb",
    )


# What `forward` adds to a request of one's own.
ADDED = (
    b"X-Forwarded-For: 192.0.2.1\r\nX-Real-IP: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n"
    b"X-Forwarded-Host: a\r\nVia: 1.1 lb\r\nX-Request-ID: new-id\r\n\r\n"
)


@contextmanager
def counted_heads() -> Iterator[list[bytes]]:
    """The heads that llhttp is asked to read, and were not known from before."""
    read: list[bytes] = []
    parse_fields = HeadParser.parse_fields

    def count(self: HeadParser[Any], data: bytes) -> Fields:
        read.append(data)
        return parse_fields(self, data)

    with patch.object(HeadParser, "parse_fields", count):
        yield read


# Bodies: the same bytes, cut in every way.


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` in pieces, none empty, cut at these places (modulo its length)."""
    size = len(data) or 1
    ends = sorted({place % size for place in places} | {0, len(data)})
    return [data[i:j] for i, j in pairwise(ends)]


def ways(data: bytes) -> list[list[bytes]]:
    """Whole, byte by byte, in two at each place, and a few times at random."""
    random = Random(len(data))
    return [
        [data],
        byte_by_byte(data),
        *(cut(data, [i]) for i in range(1, min(len(data), 64))),
        *(cut(data, random.choices(range(len(data) + 1), k=5)) for _ in range(5)),
    ]


def feed_all(body: Body, data: bytes) -> bytes:
    """Feed, and go on until nothing is left behind."""
    passed = body.feed(data)
    while body.behind:
        passed += body.feed(b"")
    return passed


def feed(body: Body, pieces: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Feed until it is done -> what left, and all that came behind the end."""
    passed = b""
    for i, piece in enumerate(pieces, 1):
        passed += feed_all(body, piece)
        if body.is_done:
            return passed, body.excess + b"".join(pieces[i:])
    return passed + body.end(), body.excess


def read_chunks(data: bytes) -> bytes:
    """A reference reader: the payload of one whole chunked message, nothing before or behind.

    It knows no extension and no trailer, so it also shows that there were none.
    """
    payload = b""
    while True:
        line, _, data = data.partition(b"\r\n")
        assert line, "no size line"
        assert all(digit in b"0123456789abcdefABCDEF" for digit in line), line
        size = int(line, 16)
        assert data[size : size + 2] == b"\r\n", "no CRLF behind a chunk"
        payload += data[:size]
        data = data[size + 2 :]
        if size == 0:
            assert data == b"", "bytes behind the last chunk"
            return payload


def is_whole(data: bytes) -> bool:
    """True if a receiver of these chunks would take them for a complete body."""
    return h11_chunked(data) is not None


# The referees.


def h11_chunked(data: bytes) -> tuple[bytes, bytes] | None:
    """h11's reading of a chunked body -> payload and rest; None: malformed or not complete."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data
    )
    try:
        _, payload = _h11_message(connection)
    except (h11.RemoteProtocolError, Incomplete):
        return None
    return payload, connection.trailing_data[0]


class Incomplete(Exception):
    """h11 waits for more bytes."""


def _h11_message(connection: h11.Connection) -> tuple[Any, bytes]:
    head: Any = None
    payload = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.EndOfMessage):
            return head, payload
        if isinstance(event, h11.Data):
            payload += event.data
        elif isinstance(event, h11.Request | h11.Response | h11.InformationalResponse):
            head = event
            if isinstance(event, h11.InformationalResponse):
                return head, b""
        else:
            raise Incomplete


def h11_request(data: bytes) -> tuple[h11.Request, bytes, bytes]:
    """h11's reading of a request -> head, payload, and what comes behind it."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    head, payload = _h11_message(connection)
    return head, payload, connection.trailing_data[0]


def h11_response(method: bytes, data: bytes, *, closed: bool) -> tuple[Any, bytes, bytes]:
    """h11's reading of a response to `method` -> head, payload, and what comes behind it."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    if closed:
        connection.receive_data(b"")
    head, payload = _h11_message(connection)
    return head, payload, connection.trailing_data[0]


class LlhttpReader:
    """llhttp's reading of one request; `fields` in lower case, without white space around."""

    def __init__(self, data: bytes) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.payload = b""
        self.is_complete = False
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.is_complete = True
        self.method = parser.get_method()

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_body(self, part: bytes) -> None:
        self.payload += part

    def on_message_complete(self) -> None:
        self.is_complete = True
