"""A client's connection by HTTP/2: its frames, and what begins, continues and ends by them."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from hermes_lb.backends.counters import DRAIN, IDLE
from hermes_lb.errors import InvalidBody, RequestRefused
from hermes_lb.http import frames as http2
from hermes_lb.http.frames import (
    DataReceived,
    RequestReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
)
from hermes_lb.http.request import CHUNKED
from hermes_lb.http.sse import chunk
from hermes_lb.http.trailers import last_chunk, safe_lines
from hermes_lb.http.version import HTTP2
from hermes_lb.proxy.admit import admit
from hermes_lb.proxy.exchange import Exchange
from hermes_lb.proxy.http2 import verdicts
from hermes_lb.proxy.http2.codec import Codec
from hermes_lb.proxy.http2.fields import Malformed, as_http1
from hermes_lb.proxy.http2.frame_io import FrameIo
from hermes_lb.proxy.http2.stream import Carrier, Http2Stream
from hermes_lb.proxy.local_replies import refusal
from hermes_lb.proxy.ports import FramedConnection
from hermes_lb.proxy.record import record_refusal
from hermes_lb.transport.addresses import plain_address
from hermes_lb.transport.endpoint import SHARE
from hermes_lb.transport.kernel import has_news

if TYPE_CHECKING:
    from hermes_lb.backends import FrontendCounters
    from hermes_lb.http.frames import Fields
    from hermes_lb.proxy.http1.client import ClientConnection
    from hermes_lb.proxy.http2.verdicts import Verdict

_NEVER = float("inf")

# Bytes that are parsed at a time: 1,800 of the smallest frames, a millisecond or two.
_SLICE = 16 * 1024
# Requests that begin at a time; the others wait for the next loop iteration.
_MOST_REQUESTS = 16
# Seconds between the two GOAWAYs of a graceful end: requests on their way are served.
_GRACE = 1.0
# Seconds in which input is discarded behind the last GOAWAY (RFC 9112 section 9.6).
_LINGER = 5.0


class _Arrived:
    """A request that has not begun, and what has come of its body."""

    __slots__ = ("data", "has_ended", "request", "trailers")

    def __init__(self, request: RequestReceived) -> None:
        self.request = request
        self.data: list[bytes] = []
        self.has_ended: bool = request.end_stream
        self.trailers = b""


class Http2Connection(FrameIo, FramedConnection, Carrier):
    """`deadline`: of the connection while no exchange runs, or until it has closed.

    Requests begin a few at a time. A request whose reset came with it begins nothing.
    """

    __slots__ = (
        "_arrived",
        "_counters",
        "_go_away_at",
        "_last_number",
        "_may_refuse",
        "_running",
        "_socket",
        "_to_reset",
        "codec",
        "deadline",
        "is_closing",
        "peer",
        "streams",
    )

    def __init__(self, socket: ClientConnection) -> None:
        """`socket`: the connection so far; its preface has come."""
        context = socket.context
        settings = context.settings
        codec = Codec(most_in_head=settings.most_in_head, most_fields=settings.most_fields)
        super().__init__(context, codec, _SLICE)
        self.codec = codec
        self._socket = socket
        self.transport = socket.transport
        self.is_writing_paused = socket.is_writing_paused
        self.peer = socket.peer
        self.streams: dict[int, Http2Stream] = {}
        self._arrived: dict[int, _Arrived] = {}
        self._running = 0  # requests that are not answered yet
        self._to_reset: set[Http2Stream] = set()  # answered before their requests ended
        self._go_away_at = _NEVER
        self.is_closing = False
        self.deadline = context.clock() + settings.timeouts.request_head
        self._last_number = 0  # of the last request
        self._may_refuse = False  # the codec has perhaps refused streams since the last write
        self._counters: FrontendCounters = socket.peer.frontend.counters
        self._counters.http2_connections += 1
        self._counters.http2_connections_total += 1

    def __repr__(self) -> str:
        return f"<Http2Connection {self.peer.log_name}, {self._running} running>"

    @property
    def is_idle(self) -> bool:
        return not (self._running or self._arrived or self._rest or self.is_closing)

    def exchanges(self) -> tuple[Exchange, ...]:
        return tuple(one.exchange for one in self.streams.values() if one.exchange is not None)

    # What the event loop calls.

    def data_received(self, data: bytes) -> None:
        self._batch.request_came(self, data)
        self.context.run_queue.received(self, len(data))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._batch.flush()
        self._all_left()
        self._counters.http2_connections -= 1
        self._socket.forget()

    # Input.

    @property
    def behind(self) -> int:
        return len(self._rest) + len(self._arrived)

    def go_on(self) -> None:
        self._batch.request_came(self, b"")

    def _proceed(self) -> None:
        """Begin some of the requests that have come."""
        for number in list(self._arrived)[:_MOST_REQUESTS]:
            self._begin(number, self._arrived.pop(number))

    def _act(self) -> None:
        """Act on what has happened to streams."""
        reset = 0  # by the client; that the stream has closed follows at once
        for event in self.codec.events():
            if isinstance(event, DataReceived):
                self._data_came(event.stream_id, event.data, ended=event.end_stream)
            elif isinstance(event, RequestReceived):
                self._opened(event)
            elif isinstance(event, StreamClosed):
                if event.error_code and event.stream_id != reset:
                    self._counters.http2_resets_by_balancer += 1
                self._closed(event)
            elif isinstance(event, StreamReset):
                reset = event.stream_id
                self._counters.http2_resets_by_client += 1
                self._left(reset)
            elif isinstance(event, TrailersReceived):
                self._trailers_came(event.stream_id, event.headers)

    def _opened(self, event: RequestReceived) -> None:
        self._counters.http2_streams_total += 1
        self._last_number = number = event.stream_id
        self._arrived[number] = _Arrived(event)
        if len(self._arrived) + len(self.streams) >= http2.MOST_STREAMS:
            self._may_refuse = True

    def _trailers_came(self, number: int, fields: Fields) -> None:
        try:
            lines = safe_lines(fields)
        except InvalidBody as error:
            self._arrived.pop(number, None)
            stream = self.streams.get(number)
            if stream is not None and stream.exchange is not None:
                stream.exchange.refuse_body(error)
            else:
                self.reset(number, http2.PROTOCOL_ERROR)
            return
        self._data_came(number, b"", ended=True, trailers=lines)

    def _data_came(self, number: int, data: bytes, *, ended: bool, trailers: bytes = b"") -> None:
        arrived, stream = self._arrived.get(number), self.streams.get(number)
        if arrived is not None:
            arrived.data.append(data)
            arrived.has_ended, arrived.trailers = ended, trailers
        elif stream is not None:
            stream.data_came(data, ended=ended, trailers=trailers)
        else:
            self.codec.credit(number, len(data))

    def _closed(self, event: StreamClosed) -> None:
        number = event.stream_id
        stream = self.streams.get(number)
        if stream is not None:
            if event.error_code or not stream.has_sent_all:
                stream.left()
            del self.streams[number]
            self._uncount(stream)
            self._forget_queue(stream)
            self._to_reset.discard(stream)
        elif self._arrived.pop(number, None) is None and event.error_code == http2.PROTOCOL_ERROR:
            self._refuse(RequestRefused(400, "HTTP/2: a malformed request"))
        if self.is_closing and not self.streams:
            self._batch.close(self.transport)

    def _left(self, number: int) -> None:
        stream = self.streams.get(number)
        if stream is not None:
            stream.left()

    def _all_left(self) -> None:
        self._arrived.clear()
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.left()
            self._uncount(stream)

    def _count(self, stream: Http2Stream) -> None:
        """A stream costs what a connection does, and counts as one until it is closed. Raises
        RequestRefused."""
        peer = self.peer
        if not peer.is_trusted:
            if not self.context.client_limits.connections.acquire(peer.address):
                raise RequestRefused(429, "too many requests at once from this address")
            stream.is_counted = True

    def _uncount(self, stream: Http2Stream) -> None:
        if stream.is_counted:
            stream.is_counted = False
            self.context.client_limits.connections.release(self.peer.address)

    def _refuse(self, error: RequestRefused) -> None:
        """Record a request that can't be answered."""
        now = self.context.clock()
        record_refusal(Http2Stream(self, 0, now), self.context, now, error)

    # Requests.

    def _begin(self, number: int, arrived: _Arrived) -> None:
        context = self.context
        settings, now = context.settings, context.clock()
        stream = Http2Stream(self, number, now)
        request, ended, data = arrived.request, arrived.has_ended, b""
        if arrived.data:
            data = b"".join(arrived.data)
            self.codec.credit(number, len(data))
        stream.is_request_read = ended
        self.streams[number] = stream
        self._running += 1
        self._counters.http2_streams += 1
        try:
            self._count(stream)
            asked = as_http1(request.headers, has_body=not request.end_stream)
            if len(asked.head) > settings.most_in_head:
                raise settings.request_parser.too_large(asked.head)
            head = settings.request_parser.parse(asked.head)
        except Malformed as malformed:
            self._refuse(RequestRefused(400, f"HTTP/2: {malformed}"))
            self.reset(number, http2.PROTOCOL_ERROR)
            self.stream_done(stream, now)
            return
        except RequestRefused as refused:
            size = stream.reply(refusal(refused, settings.error_pages), may_keep=True)
            record_refusal(stream, context, now, refused, size)
            stream.done(now, ended)
            return
        stream.is_grpc = asked.is_grpc
        head.version = HTTP2
        head.stream = number
        if asked.websocket_key:
            stream.begin_tunnel(asked.websocket_key, data, ended=ended)
        self._counters.requests += 1
        self._counters.http2_requests += 1
        stream.exchange = exchange = Exchange(stream, head, context, now)
        if not admit(exchange, now):
            return
        if not head.length:
            exchange.begin(b"", True, now)
            return
        is_chunked = head.length == CHUNKED
        stream.begin_body(is_chunked=is_chunked)
        exchange.bytes_in = len(data)
        if is_chunked:
            data = chunk(data) + (last_chunk(arrived.trailers) if ended else b"")
        exchange.begin(data, ended, now)

    # What the streams call.

    def local_address(self) -> tuple[str, int]:
        here = self.transport.get_extra_info("sockname")
        return (plain_address(here[0]), here[1]) if isinstance(here, tuple) else ("", 0)

    def date_field(self) -> bytes:
        return self.context.wall_clock.date(self.context.clock())

    def reset(self, number: int, code: int) -> None:
        self.codec.reset(number, code)
        self.has_frames()

    def stream_done(self, stream: Http2Stream, now: float) -> None:
        self._running -= 1
        self._counters.http2_streams -= 1
        timeouts = self.context.settings.timeouts
        stream.deadline = now + timeouts.client
        if not stream.is_request_read and stream.number in self.streams:
            self._to_reset.add(stream)
        if not self._running:
            self.deadline = now + timeouts.keep_alive
        self.has_frames()

    # Output.

    def _acted(self) -> None:
        if self._to_reset:
            for stream in list(self._to_reset):
                if not self.codec.queued(stream.number):  # its END_STREAM has been taken
                    self._to_reset.discard(stream)
                    self.reset(stream.number, http2.NO_ERROR)

    def _frames_are_over(self, last: bytes) -> None:
        self._over()

    def _taken(self, frames: bytes) -> None:
        # Not only of the last frames: the codec may be over at the next write, without any.
        if verdicts.GOAWAY_HEAD in frames and (verdict := verdicts.in_frames(frames)):
            self._condemned(verdict)
        if self._may_refuse:
            self._may_refuse = False
            self._counters.http2_refused_streams += verdicts.refused_in(frames)

    # Ends.

    def _condemned(self, verdict: Verdict) -> None:
        """The codec has had enough of the client."""
        self._counters.http2_goaways[verdict.cause] += 1
        self._refuse(RequestRefused(0, f"HTTP/2: {verdict.text}"))

    def _broken(self, problem: str) -> None:
        """The same, and the codec writes no GOAWAY."""
        verdict = verdicts.of_failure(problem)
        self._condemned(verdict)
        frame = verdicts.goaway(self._last_number, verdict.cause)
        self._batch.send(self.transport, frame)
        self._over()

    def _over(self) -> None:
        """Neither side has anything more to say."""
        if not self._is_over:
            self._is_over = self.is_closing = True
            self.deadline = self.context.clock() + _LINGER
            self._all_left()
            self._rest.clear()
            self.context.loop.call_soon(self._half_close)

    def _half_close(self) -> None:
        """Unread input would make the kernel drop the GOAWAY: it is read and discarded."""
        self._batch.write_all()
        try:
            if not self.transport.is_closing():
                self.transport.write_eof()
        except OSError:  # asyncio's own loop, and a client that has gone
            self.transport.abort()

    def close_gracefully(self, now: float) -> None:
        if self._go_away_at == _NEVER and not self.is_closing:
            self._go_away_at = now + _GRACE
            self.codec.announce_end()
            self.has_frames()

    def close(self) -> None:
        """No more streams; the present ones finish."""
        if not self.is_closing:
            self._end(DRAIN)

    def _end(self, cause: int) -> None:
        self._counters.http2_goaways[cause] += 1
        self.is_closing = True
        self._go_away_at = _NEVER
        self.deadline = self.context.clock() + self.context.settings.timeouts.client
        self.codec.go_away()
        self.write_frames()
        if not self.streams:
            self._batch.close(self.transport)

    def shut_down(self) -> None:
        for exchange in self.exchanges():
            exchange.shut_down()
        if not self.is_closing:
            self._counters.http2_goaways[DRAIN] += 1
        self.codec.go_away()
        self.write_frames()
        self.abort()

    def abort(self) -> None:
        self.is_closing = True
        self._batch.write_all()
        self.transport.abort()

    # Deadlines.

    def sweep(self, now: float) -> None:
        for stream in list(self.streams.values()):
            if stream.exchange is not None:
                stream.exchange.sweep(now)
            elif stream.deadline <= now and not stream.moves(now):
                self.reset(stream.number, http2.INTERNAL_ERROR)
        if self._go_away_at <= now:
            self.close()
        elif self.deadline <= now and not self._running:
            if self.is_closing:
                self.transport.abort()
            else:
                self._end(IDLE)
        if self._paused_by & ~SHARE and self._has_left():
            self.transport.abort()

    def _has_left(self) -> bool:
        """Ask the kernel: the loop reports the client's end only while it reads."""
        return not self.transport.is_closing() and has_news(self.transport, select.POLLRDHUP)
