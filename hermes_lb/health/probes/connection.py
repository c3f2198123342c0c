"""The connection of one check. It is dialled, and its response parsed, as those of requests are
(`hermes_lb.backends.dialing`, `hermes_lb.http`).

Not aiohttp's client, which has no PROXY header, repeats a request whose connection was lost, and
takes half as much CPU again, which counts with thousands of servers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, cast

from hermes_lb.errors import InvalidBody, InvalidResponse
from hermes_lb.health.probes.base import NoAnswer
from hermes_lb.health.probes.expect import BODY_MAX
from hermes_lb.health.probes.one_exchange import OneExchange
from hermes_lb.http import make_body
from hermes_lb.http.limits import INFORMATIONAL_RESPONSES

if TYPE_CHECKING:
    from hermes_lb.backends.dialing import ServerDialer
    from hermes_lb.http import Body, ResponseHead, ResponseParser

_HEAD_END = b"\r\n\r\n"
# Bytes of the answer's head, and of all before it. As the default of `limits.head_size`.
_HEAD_MAX = 32 * 1024


class Answer(NamedTuple):
    """A response, with its body up to `BODY_MAX` bytes."""

    head: ResponseHead
    body: bytes

    def header(self, name: str) -> list[str]:
        """All values of a field; the case of its name does not matter."""
        wanted = name.lower().encode()
        return [
            value.decode(errors="replace")
            for field, value in self.head.fields()
            if field.lower() == wanted
        ]


async def connect(dialer: ServerDialer) -> None:
    """Connect and close. Raises OSError."""
    connection = _Connection()
    try:
        await dialer.dial(asyncio.get_running_loop(), lambda: connection)
    finally:
        connection.close()


class _Connection(asyncio.Protocol):
    _transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def ask(
    dialer: ServerDialer, method: bytes, request: bytes, parser: ResponseParser
) -> Answer:
    """Send the head of a request, and no body -> the answer. Raises NoAnswer or OSError."""
    return await _Exchange(method, request, parser).run(dialer)


class _Exchange(OneExchange[Answer]):
    def __init__(self, method: bytes, request: bytes, parser: ResponseParser) -> None:
        super().__init__()
        self._method = method
        self._request = request
        self._parser = parser
        self._received = b""  # of a head that is not complete
        self._heads = 0
        self._head: ResponseHead | None = None
        self._body: Body | None = None
        self._content = bytearray()

    def _hang_up(self, transport: asyncio.Transport) -> None:
        if self._body is not None and self._body.is_done:
            transport.close()
        else:
            transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        try:
            if self._body is None:
                self._take_head(data)
            else:
                self._take_body(self._body, data)
        except (InvalidResponse, InvalidBody) as error:
            self._fail(NoAnswer(f"no valid HTTP response: {error}"))

    def eof_received(self) -> None:
        if self._is_over:
            return
        if self._body is None:
            self._fail(
                NoAnswer("no valid HTTP response: it ended within its head")
                if self._received
                else NoAnswer("connection closed before a response")
            )
            return
        try:
            self._body.end()
        except InvalidBody:
            self._fail(NoAnswer("connection closed within the response body"))
        else:
            self._finish(self._whole())

    # The parts of a response.

    def _take_head(self, data: bytes) -> None:
        data = self._received + data
        while (end := data.find(_HEAD_END)) >= 0:
            end += len(_HEAD_END)
            head, data = self._parser.parse(data[:end]), data[end:]
            if head.status >= 200 or head.status == 101:
                self._head = head
                self._body = make_body(head.body_length(self._method), to_http11=False)
                self._take_body(self._body, data)
                return
            self._heads += 1
            if self._heads > INFORMATIONAL_RESPONSES:
                raise InvalidResponse("too many informational responses")
        if len(data) > _HEAD_MAX:
            raise InvalidResponse("its head is too long")
        self._received = data

    def _take_body(self, body: Body, data: bytes) -> None:
        if not body.is_done:
            self._content += body.feed(data)
        if body.is_done or len(self._content) > BODY_MAX:
            self._finish(self._whole())

    def _whole(self) -> Answer:
        assert self._head is not None
        return Answer(self._head, bytes(self._content[:BODY_MAX]))
