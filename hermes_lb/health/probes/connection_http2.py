"""The connection of one check by HTTP/2, of a backend with `protocol = "h2"`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from hermes_lb.health.probes.base import NoAnswer
from hermes_lb.health.probes.expect import BODY_MAX
from hermes_lb.health.probes.one_exchange import OneExchange
from hermes_lb.http.client_frames import ClientFrames
from hermes_lb.http.frames import (
    BrokenConnection,
    DataReceived,
    ResponseReceived,
    StreamClosed,
    TrailersReceived,
)

if TYPE_CHECKING:
    import asyncio

    from hermes_lb.backends.dialing import ServerDialer
    from hermes_lb.http.frames import Fields

# As the defaults of `limits.head_size` and `limits.header_count`.
_HEAD_MAX, _MOST_FIELDS = 32 * 1024, 100


class Http2Answer:
    """A response, with its body up to `BODY_MAX` bytes, and its trailers among its fields."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.fields: list[tuple[bytes, bytes]] = []

    def header(self, name: str) -> list[str]:
        """All values of a field."""
        wanted = name.lower().encode()
        return [value.decode(errors="replace") for name, value, *_ in self.fields if name == wanted]


async def ask_http2(dialer: ServerDialer, fields: Fields, body: bytes = b"") -> Http2Answer:
    """Send a request: its method, its path and further fields. Raises NoAnswer or OSError."""
    return await _Exchange(dialer.scheme, fields, body).run(dialer)


class _Exchange(OneExchange[Http2Answer]):
    def __init__(self, scheme: bytes, fields: Fields, body: bytes) -> None:
        super().__init__()
        self._request = [(b":scheme", scheme), *fields]
        self._body = body
        self._frames = ClientFrames(most_in_head=_HEAD_MAX, most_fields=_MOST_FIELDS)
        self._received = Http2Answer()

    def _hang_up(self, transport: asyncio.Transport) -> None:
        self._frames.go_away()
        transport.write(self._frames.take())
        transport.close()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        tls: Any = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._fail(NoAnswer("it does not speak HTTP/2: it did not choose h2 by ALPN"))
            return
        stream = self._frames.request(self._request, ends=not self._body)
        if self._body:
            self._frames.send(stream, self._body)
            self._frames.end(stream)
        cast("asyncio.Transport", transport).write(self._frames.take())

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._is_over:
            return
        try:
            self._frames.receive(data)
        except BrokenConnection as error:
            self._fail(NoAnswer(f"no valid HTTP/2: {error}"))
            return
        self._act()
        self._transport.write(self._frames.take())
        self._act()

    def _act(self) -> None:
        received = self._received
        for event in self._frames.events():
            if isinstance(event, ResponseReceived):
                received.fields += event.headers
                received.status = int(dict(received.fields)[b":status"])
            elif isinstance(event, DataReceived):
                received.body += event.data
                self._frames.credit(event.stream_id, len(event.data))
                if len(received.body) > BODY_MAX:
                    received.body = received.body[:BODY_MAX]
                    self._finish(received)
            elif isinstance(event, TrailersReceived):
                received.fields += event.headers
            elif isinstance(event, StreamClosed):
                if event.error_code:
                    self._fail(NoAnswer(f"the stream was reset with error {event.error_code}"))
                self._finish(received)

    def eof_received(self) -> None:
        self._fail(NoAnswer("connection closed before the end of a response"))
