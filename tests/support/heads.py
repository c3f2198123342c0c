"""Heads of HTTP/1: bytes in, what comes out."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from hermes_lb.build import IS_COMPILED
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
    from collections.abc import Iterator, Sequence

    from _pytest.mark import ParameterSet

    from hermes_lb.http import ResponseHead
    from hermes_lb.http.head import Fields

MOST_FIELDS = 100
NEXT = b"GET /next HTTP/1.1\r\nHost: n\r\n\r\n"  # what may come behind a message


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
    told = {name: getattr(head, name) for name in attributes(head)}
    plain = {name: value for name, value in told.items() if isinstance(value, _PLAIN)}
    return plain | {"sent": forward(head) if isinstance(head, RequestHead) else answer(head)}


def attributes(head: Any) -> Sequence[str]:
    """The names of the public attributes of a head, or of its `rare`."""
    kind = "__mypyc_attrs__" if IS_COMPILED else "__slots__"
    names = [name for cls in type(head).__mro__ for name in getattr(cls, kind, ())]
    return [name for name in dict.fromkeys(names) if not name.startswith("_")]


_PLAIN = (int, bytes, str, list, tuple, type(None))


def answer(
    head: ResponseHead,
    method: bytes = b"GET",
    *,
    to_http11: bool = True,
    keep_alive: bool = True,
    first: bytes = b"",
    without: tuple[int, ...] = (),
) -> bytes:
    """The head as a client that sent `method` would get it."""
    return build_response(
        head,
        head.forwarded_without(without) if without else head.forwarded,
        to_http11=to_http11,
        keep_alive=keep_alive,
        body_length=head.body_length(method),
        first=first,
    )


def forward(head: RequestHead) -> bytes:
    """The head as a server would get it, from an untrusted client at 192.0.2.1."""
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
