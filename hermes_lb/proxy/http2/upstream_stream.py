"""One stream to a server: the server's side of one exchange (`ServerSide`).

The exchange has requests and responses in HTTP/1.1's framing, whatever the version: so a stream
takes chunks apart, and passes a body without a length in chunks.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mypy_extensions import trait

from hermes_lb.errors import (
    BadResponse,
    ClosedBeforeResponse,
    InvalidBody,
    InvalidResponse,
    NotProcessed,
)
from hermes_lb.http import frames as http2
from hermes_lb.http import make_body
from hermes_lb.http.body import ChunkedBody, feed_all
from hermes_lb.http.request import CHUNKED
from hermes_lb.http.sse import chunk
from hermes_lb.http.trailers import as_fields as trailer_fields
from hermes_lb.http.trailers import last_chunk, safe_lines
from hermes_lb.proxy.http2.frame_io import HIGH_WATER, LOW_WATER, Queue
from hermes_lb.proxy.http2.upstream_fields import as_fields, as_head
from hermes_lb.proxy.ports import ServerSide

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from hermes_lb.backends import Server
    from hermes_lb.errors import ServerFailed
    from hermes_lb.http import Body, ResponseHead
    from hermes_lb.http.client_frames import ClientFrames
    from hermes_lb.http.frames import Fields
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import RequestBody, ResponseSink, TunnelEnd, TunnelSink

_HEAD_END = b"\r\n\r\n"


@trait
class ServerCarrier:
    """The connection, as far as its streams need it. `heard_at`: when its last bytes came."""

    __slots__ = ()

    codec: ClientFrames
    context: Context
    heard_at: float
    reads: int
    scheme: bytes
    server: Server

    def has_frames(self) -> None:
        """Write the codec's frames at the end of this loop iteration."""
        raise NotImplementedError

    def is_full(self, stream: Queue) -> None:
        """It has queued more than it may, unless the next write takes it."""
        raise NotImplementedError

    def begin(self, stream: UpstreamStream, fields: Fields, *, ends: bool) -> int:
        """Send the head of a request -> the number of the stream; 0: the server takes no more."""
        raise NotImplementedError

    def is_answered(self, stream: UpstreamStream) -> None:
        """Call its `pass_on` after the events that have come with its head."""
        raise NotImplementedError

    def is_behind(self, stream: UpstreamStream) -> None:
        """Its body is not parsed yet: call `go_on` in the next loop iteration."""
        raise NotImplementedError

    def let_go(self, stream: UpstreamStream) -> None:
        """Its exchange has ended."""
        raise NotImplementedError


class UpstreamStream(ServerSide, Queue):
    """A request is sent once: a stream serves one exchange.

    Bytes of a response keep their part of the stream's window while the client is slow, so it holds
    back its own stream, and no other.
    """

    __slots__ = (
        "_connection",
        "_ended_by",
        "_first",
        "_has_ended",
        "_head",
        "_is_chunked",
        "_is_closed",
        "_is_head",
        "_is_held",
        "_is_paused",
        "_reads",
        "_request",
        "_unread",
        "body",
        "is_reused",
        "is_writing_paused",
        "number",
        "server",
        "sink",
        "was_idle",
    )

    def __init__(self, connection: ServerCarrier, *, was_idle: bool) -> None:
        """`was_idle`: the connection had served before, and did not at this moment."""
        self._connection = connection
        self.server = connection.server
        self.number = 0
        self.was_idle = was_idle
        self.is_reused = False
        self.is_writing_paused = False
        self.sink: ResponseSink | None = None
        self.body: Body | None = None
        self._reads = connection.reads
        self._request: Body | None = None  # what of it has not been sent
        self._is_head = False
        self._head: ResponseHead | None = None  # that has not been passed on, or is held
        self._first = b""  # what has come behind it
        self._is_chunked = False  # the response, for the exchange
        self._is_held = False  # the head, or an end of the body
        self._is_paused = False
        self._is_closed = False
        self._has_ended = False  # all of the response has come
        self._ended_by: Exception | None = None  # while it is held, or behind
        self._unread = 0  # bytes of it that the server gets no credit for yet

    def __repr__(self) -> str:
        return f"<UpstreamStream {self.number} to {self.server.name}, {self.sink!r}>"

    # What the connection calls.

    def informational(self, fields: Fields) -> None:
        sink = self.sink
        if sink is None:
            return
        head = self._parsed(fields, ended=False)
        if head is not None:
            sink.informational(head)

    def head_came(self, fields: Fields, *, ended: bool) -> None:
        if self.sink is None:
            return
        self._has_ended = ended
        head = self._parsed(fields, ended=ended)
        if head is not None:
            self._is_chunked = head.length == CHUNKED
            self._head = head
            self._connection.is_answered(self)

    def _parsed(self, fields: Fields, *, ended: bool) -> ResponseHead | None:
        settings = self._connection.context.settings
        try:
            data = as_head(tuple(fields), ended=ended, is_head=self._is_head)
            if len(data) > settings.most_in_head:
                raise InvalidResponse("the response head is too large")
            return settings.response_parser.parse(data)
        except InvalidResponse as problem:
            self._fail(BadResponse(f"{self.server.name}: {problem}"))
            return None

    def data_came(self, data: bytes, *, ended: bool) -> None:
        """More of the response's body, or bytes that are of no use any more."""
        if self.sink is None:
            self._connection.codec.credit(self.number, len(data))
            return
        if self._is_paused or self._is_held:
            self._unread += len(data)
        else:
            self._connection.codec.credit(self.number, len(data))
        self._has_ended = ended
        if self._is_chunked:
            data = chunk(data) + (last_chunk(b"") if ended else b"")
        self._body_came(data)

    def trailers_came(self, fields: Fields) -> None:
        if self.sink is None:
            return
        self._has_ended = True
        try:
            lines = safe_lines(fields)
        except InvalidBody as error:
            self._cut(error)
            return
        if self._is_chunked:
            self._body_came(last_chunk(lines))

    def _body_came(self, data: bytes) -> None:
        sink, body = self.sink, self.body
        if self._head is not None or self._is_held:
            self._first += data
        elif sink is not None and body is not None and data:
            sink.response_data(self, body, data)
            self._look_behind()

    def pass_on(self) -> None:
        """The head, and what of the body has come with it."""
        sink, head = self.sink, self._head
        if sink is None or head is None or self._is_held:
            return
        first, self._head, self._first = self._first, None, b""
        sink.response_head(self, head, first)
        if self._is_held:
            self._head, self._first = head, first
        else:
            self._look_behind()

    def go_on(self) -> None:
        """Parse what is behind."""
        sink, body = self.sink, self.body
        if sink is not None and body is not None and not self._is_held:
            sink.response_data(self, body, b"")
        self._look_behind()

    def _look_behind(self) -> None:
        if self.sink is None or self._is_held:
            return
        if self.body is not None and self.body.behind:
            self._connection.is_behind(self)
        elif self._ended_by is not None:
            error, self._ended_by = self._ended_by, None
            self._cut(error)

    def closed(self, code: int, *, is_malformed: bool) -> None:
        """The stream has ended, in any way."""
        self._is_closed = True
        self.pass_on()
        name = self.server.name
        if self.sink is None or self._has_ended:
            return
        if self.body is not None or self._head is not None:
            self._cut(ConnectionResetError(f"{name} reset the stream with error {code}"))
        elif code == http2.REFUSED_STREAM:
            self._fail(NotProcessed(f"{name} refused the stream"))
        elif is_malformed:
            self._fail(BadResponse(f"{name}: HTTP/2: malformed response"))
        else:
            self._fail(ClosedBeforeResponse(f"{name} reset the stream with error {code}"))

    def lost(self, error: type[ServerFailed], reason: str) -> None:
        """Its connection has gone. `error`: for a request without a response."""
        self._is_closed = True
        self.pass_on()
        if self.sink is None or self._has_ended:
            return
        reason = f"{self.server.name}: {reason}"
        if self.body is not None or self._head is not None:
            self._cut(ConnectionResetError(reason))
        else:
            # Nothing has come since: it may have ended before the request, as a kept one may.
            self.is_reused = self.was_idle and self._reads == self._connection.reads
            self._fail(error(reason))

    def refused(self) -> None:
        """The connection takes no more requests, by an event of this loop iteration."""
        self._fail(NotProcessed(f"{self.server.name} has gone away"))

    def _fail(self, error: ServerFailed) -> None:
        sink = self.sink
        self._leave()
        if sink is not None:
            sink.server_failed(error)

    def _cut(self, error: Exception) -> None:
        """The response ends before its end."""
        sink, body = self.sink, self.body
        if self._is_held or self._head is not None or (body is not None and body.behind):
            self._ended_by = error
            return
        self._leave()
        if sink is not None and body is not None:
            sink.response_ended(body, error)

    def slow_down(self) -> bool:
        if not self.is_writing_paused and self.sink is not None and self.unsent > HIGH_WATER:
            self.is_writing_paused = True
            self.sink.server_is_slow()
        return self.is_writing_paused

    def written(self) -> bool:
        if self.unsent > LOW_WATER:
            return False
        self.is_writing_paused = False
        if self.sink is not None:
            self.sink.server_caught_up()
        return True

    # What the exchange calls.

    @property
    def unsent(self) -> int:
        return self._connection.codec.queued(self.number)

    @property
    def has_unwritten(self) -> bool:
        return self.unsent > 0

    def send_request(
        self, sink: ResponseSink, data: bytes, upload: RequestBody | None = None
    ) -> None:
        connection = self._connection
        self.sink = sink
        connection.context.live.upstreams.add(self)
        end = data.index(_HEAD_END)
        asked = as_fields(data[:end], connection.scheme)
        self._is_head = asked.is_head
        self.number = connection.begin(self, asked.fields, ends=asked.length == 0)
        if not self.number:
            connection.context.loop.call_soon(self.refused)
        elif asked.length:
            self._request = make_body(asked.length, to_http11=False, takes_trailers=True)
            self.send(data[end + len(_HEAD_END) :])

    def send(self, data: bytes) -> None:
        connection, request = self._connection, self._request
        if request is None:
            return
        codec = connection.codec
        passed = feed_all(request, data)
        if passed:
            codec.send(self.number, passed)
        if request.is_done:
            self._request = None
            if isinstance(request, ChunkedBody) and request.trailers:
                codec.trailers(self.number, trailer_fields(request.trailers))
            else:
                codec.end(self.number)
        connection.has_frames()
        if not self.is_writing_paused and codec.queued(self.number) > HIGH_WATER:
            connection.is_full(self)

    def expect(self, body: Body) -> None:
        self.body = body

    def pass_to(self, sink: ResponseSink) -> None:
        self.sink = sink

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        if self._unread and not self._is_held:
            self._connection.codec.credit(self.number, self._unread)
            self._unread = 0
            self._connection.has_frames()

    def hold(self, until: Awaitable[object]) -> None:
        self._is_held = True
        self._connection.context.tasks.spawn(self._deliver_again(until), name="hold a response")

    async def _deliver_again(self, until: Awaitable[object]) -> None:
        try:
            await until
        except asyncio.CancelledError:  # the balancer ends
            self._is_held = False
            raise
        self._is_held = False
        if self.sink is None:
            return
        if not self._is_paused:
            self.resume_reading()
        if self._head is not None:
            self.pass_on()
        else:
            first, self._first = self._first, b""
            if self.body is not None:
                self.sink.response_data(self, self.body, first)
            self._look_behind()

    def give_back(self, now: float, is_clean: bool) -> None:
        self._leave()

    def abort(self) -> None:
        self._leave()

    def _leave(self) -> None:
        """The exchange needs nothing more: the server sees its client leave, if it is not done."""
        is_running, self.sink, self.body, self._head = self.sink is not None, None, None, None
        codec, number = self._connection.codec, self.number
        self._is_held = False
        self._ended_by = None
        codec.credit(number, self._unread)
        self._unread = 0
        is_done = self._has_ended and self._request is None and not codec.queued(number)
        if number and not (self._is_closed or is_done):
            codec.reset(number, http2.CANCEL)
        self._request = None
        if is_running:
            self._connection.let_go(self)

    def silence(self, now: float) -> float | None:
        if self.sink is None or self.body is None:
            return None
        return now - self._connection.heard_at

    def open_tunnel(self, tunnel: TunnelSink) -> TunnelEnd:
        raise NotImplementedError("a request that may become a tunnel is sent by HTTP/1.1")
