"""What others read: h11 (strict, and written by other people) and llhttp (httptools).

llhttp is what the code under test uses itself, so it only judges what we send.
"""

from __future__ import annotations

from typing import Any

import h11
import httptools


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


def is_whole(data: bytes) -> bool:
    """True if a receiver of these chunks would take them for a complete body."""
    return h11_chunked(data) is not None
