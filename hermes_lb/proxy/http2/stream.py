"""One stream: the client's side of one exchange (`Downstream`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mypy_extensions import trait

from hermes_lb.http import frames as http2
from hermes_lb.http import make_body
from hermes_lb.http.body import ChunkedBody
from hermes_lb.http.sse import chunk
from hermes_lb.http.trailers import as_fields, last_chunk
from hermes_lb.proxy.http2.fields import accepts, response_fields
from hermes_lb.proxy.http2.frame_io import HIGH_WATER, LOW_WATER, Queue
from hermes_lb.proxy.http2.grpc import error_fields
from hermes_lb.proxy.http2.tunnel_end import StreamEnd, TunnelStream
from hermes_lb.proxy.ports import Downstream

if TYPE_CHECKING:
    from hermes_lb.http import Body, ResponseHead
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.exchange import Exchange
    from hermes_lb.proxy.http2.codec import Codec
    from hermes_lb.proxy.local_replies import LocalReply
    from hermes_lb.proxy.ports import Peer, TunnelEnd, TunnelSink

# By the first letter of a termination: the proxy's limits; else it is the server's end. Never
# NO_ERROR or CANCEL: a client could take the response for complete.
_CODES = {"P": http2.ENHANCE_YOUR_CALM}


@trait
class Carrier:
    """The connection, as far as its streams need it."""

    __slots__ = ()

    codec: Codec
    context: Context
    peer: Peer

    def local_address(self) -> tuple[str, int]:
        raise NotImplementedError

    def date_field(self) -> bytes:
        raise NotImplementedError

    def has_frames(self) -> None:
        """Write the codec's frames at the end of this loop iteration."""
        raise NotImplementedError

    def is_full(self, stream: Queue) -> None:
        """It has queued more than it may, unless the next write takes it."""
        raise NotImplementedError

    def reset(self, number: int, code: int) -> None:
        raise NotImplementedError

    def stream_done(self, stream: Http2Stream, now: float) -> None:
        """Its exchange has ended."""
        raise NotImplementedError


class Http2Stream(Downstream, TunnelStream, Queue):
    """Bytes of the request's body that are not passed on keep their part of the stream's window,
    so a slow server holds back its own stream, and no other.

    - `exchange`: None once it has ended; what is queued may leave later, until `deadline`.
    - `tunnel`: its end on this side, after a 101.
    """

    __slots__ = (
        "_connection",
        "_early",
        "_is_chunked",
        "_is_paused",
        "_most_queued",
        "_refuses",
        "_unread",
        "_unsent",
        "_with_trailers",
        "deadline",
        "exchange",
        "has_sent_all",
        "is_counted",
        "is_grpc",
        "is_request_read",
        "is_writing_paused",
        "number",
        "peer",
        "received_at",
        "tunnel",
        "websocket_key",
    )

    def __init__(self, connection: Carrier, number: int, now: float) -> None:
        self._connection = connection
        self.number = number
        self.peer = connection.peer
        self.received_at = now
        self.is_writing_paused = False
        self.exchange: Exchange | None = None
        self.tunnel: StreamEnd | None = None
        self.websocket_key = b""
        self._early: list[tuple[bytes, bool]] = []  # of a tunnel, before its 101
        self.is_request_read = False
        self.deadline = float("inf")
        self.has_sent_all = False  # END_STREAM is queued
        self.is_grpc = False  # and so are the balancer's errors for it
        self.is_counted = False  # among the connections of its client
        self._is_chunked = False  # the request's body, for the server
        self._is_paused = False  # the server can take no more of it
        self._refuses = False  # nothing more of it is passed on
        self._unread = 0  # bytes of it that the client gets no credit for yet
        self._unsent = 1 << 62  # at the last look
        self._most_queued = 0  # no more bytes of the response wait in the codec
        self._with_trailers: ChunkedBody | None = None  # the response's, if it may have some

    def __repr__(self) -> str:
        return f"<Http2Stream {self.number} of {self.peer.log_name}, {self.exchange!r}>"

    # What the connection calls.

    def begin_body(self, *, is_chunked: bool) -> None:
        self._is_chunked = is_chunked

    def begin_tunnel(self, websocket_key: bytes, data: bytes, *, ended: bool) -> None:
        """`data`: what has come for the server, behind its 101."""
        self.websocket_key = websocket_key
        self._early.append((data, ended))

    def data_came(self, data: bytes, *, ended: bool, trailers: bytes = b"") -> None:
        """More of the request's body, or of a tunnel; or bytes that are of no use any more.

        `trailers`: lines, behind a body that has ended.
        """
        exchange = self.exchange
        if self._refuses and exchange is not None:
            self._unread += len(data)  # of no use, and it gets no credit until the response is out
            self.is_request_read = ended
            return
        if exchange is None or (self.has_sent_all and self.tunnel is None):
            self._connection.codec.credit(self.number, len(data))
            self.is_request_read = self.is_request_read or ended
            return
        if self.websocket_key and self.tunnel is None:
            self._early.append((data, ended))  # a stream's window at most
            self._unread += len(data)
            return
        if self._is_paused:
            self._unread += len(data)
        else:
            self._connection.codec.credit(self.number, len(data))
        if self.tunnel is not None:
            self.tunnel.data_came(data, ended=ended)
            return
        exchange.bytes_in += len(data)
        self.is_request_read = ended
        passed = chunk(data) if self._is_chunked else data
        if ended and self._is_chunked:
            passed += last_chunk(trailers)
        if passed:
            exchange.receive(passed)
        # Without an upload its length had come, and so all of it, before END_STREAM or trailers.
        if ended and exchange is self.exchange and not exchange.is_over and exchange.upload:
            exchange.request_ended()

    def left(self) -> None:
        """The client has reset the stream, or its connection has gone."""
        self._connection.codec.credit(self.number, self._unread)
        self._unread = 0
        exchange, tunnel = self.exchange, self.tunnel
        self.has_sent_all = True
        if tunnel is not None:
            tunnel.lost(None)
        elif exchange is not None:
            exchange.client_left()

    def slow_down(self) -> bool:
        """Hold the server back, if a write has left more queued than there may be."""
        if self.is_writing_paused or self.unsent <= HIGH_WATER:
            return self.is_writing_paused
        self.is_writing_paused = True
        self.peer.frontend.counters.http2_stalls += 1
        if self.tunnel is not None:
            self.tunnel.is_slow()
        elif self.exchange is not None:
            self.exchange.client_is_slow()
        return True

    def written(self) -> bool:
        """Go on, if what was queued has left."""
        if self.unsent > LOW_WATER:
            return False
        self.is_writing_paused = False
        if self.tunnel is not None:
            self.tunnel.caught_up()
        elif self.exchange is not None:
            self.exchange.client_caught_up()
        return True

    def moves(self, now: float) -> bool:
        """True if the client has taken something of what was left since the last look."""
        before, self._unsent = self._unsent, self.unsent
        if not 0 < self._unsent < before:
            return False
        self.deadline = now + self._connection.context.settings.timeouts.client
        return True

    # What the exchange calls.

    @property
    def unsent(self) -> int:
        return self._connection.codec.queued(self.number)

    def local_address(self) -> tuple[str, int]:
        return self._connection.local_address()

    def body_for(self, head: ResponseHead, length: int) -> Body:
        body = make_body(length, to_http11=False, takes_trailers=True)
        self._with_trailers = body if isinstance(body, ChunkedBody) else None
        return body

    def send_informational(self, head: ResponseHead) -> int:
        fields = response_fields(head.status, head.forwarded)
        self._connection.codec.inform(self.number, fields)
        self._connection.has_frames()
        return len(head.forwarded)

    @property
    def can_insert(self) -> bool:
        return True

    @property
    def takes_chunks(self) -> bool:
        return False

    def send_head(
        self, head: ResponseHead, fields: bytes, length: int, may_keep: bool, first: bytes
    ) -> int:
        status = head.status
        if status == 101:
            return self._accept(fields)
        listed = response_fields(status, fields)
        if head.length >= 0 and status >= 200 and status != 204:
            listed.append((b"content-length", b"%d" % head.length))
        self._respond(status, listed, length, first)
        return len(fields) + len(first)

    def _respond(
        self, status: int, fields: list[tuple[bytes, bytes]], length: int, first: bytes
    ) -> None:
        """`length`: of the body, of which `first` has come."""
        self._count(status)
        is_all = length == len(first)
        self._connection.codec.respond(self.number, fields, ends=length == 0)
        if first:
            self._send(first, ends=is_all)
        else:
            self._connection.has_frames()
        self.has_sent_all = is_all

    def _count(self, status: int) -> None:
        self.peer.frontend.counters.http2_responses[status // 100 - 2] += 1

    def _accept(self, fields: bytes) -> int:
        """A WebSocket: a 200 by RFC 8441 section 5.1, once the server has proved that it is one."""
        if not accepts(self.websocket_key, fields):
            self.has_sent_all = True
            self._connection.reset(self.number, http2.INTERNAL_ERROR)
            return 0
        self._count(200)
        listed = [f for f in response_fields(200, fields) if f[0] != b"sec-websocket-accept"]
        self._connection.codec.respond(self.number, listed, ends=False)
        self._connection.has_frames()
        return len(fields)

    def send(self, data: bytes) -> None:
        self._send(data)

    def send_data(self, data: bytes) -> None:
        if data:
            self._send(data)

    def _send(self, data: bytes, *, ends: bool = False) -> None:
        if self.has_sent_all:
            return
        connection = self._connection
        codec = connection.codec
        codec.send(self.number, data, ends=ends)
        self._most_queued += len(data)
        if self._most_queued > HIGH_WATER and not self.is_writing_paused:
            self._most_queued = codec.queued(self.number)
            if self._most_queued > HIGH_WATER:
                connection.is_full(self)
        connection.has_frames()

    def reply(self, reply: LocalReply, *, may_keep: bool) -> int:
        connection = self._connection
        if self.is_grpc and reply.status >= 400:
            self._respond(200, error_fields(reply.status, reply.message or reply.body), 0, b"")
            return len(reply.message or reply.body)
        fields = response_fields(reply.status, reply.fields + connection.date_field())
        fields.append((b"content-length", b"%d" % len(reply.body)))
        body = b"" if reply.is_head else reply.body
        self._respond(reply.status, fields, len(body), body)
        return len(reply.fields) + len(body)

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        if self._unread:
            self._connection.codec.credit(self.number, self._unread)
            self._unread = 0
            self._connection.has_frames()

    def refuse_rest(self) -> None:
        self._refuses = True
        self.resume_reading()

    def done(self, now: float, is_read: bool) -> None:
        if not self.has_sent_all:
            self.has_sent_all = True
            codec, body = self._connection.codec, self._with_trailers
            if body is not None and body.trailers:
                codec.trailers(self.number, as_fields(body.trailers))
            else:
                codec.end(self.number)
        self._ended(now)

    def cut_off(self, termination: str) -> None:
        # Also for a client's own end: another of its requests may have cancelled this one.
        self.has_sent_all = True
        self._connection.reset(self.number, _CODES.get(termination[:1], http2.INTERNAL_ERROR))
        self._ended(self._connection.context.clock())

    def _ended(self, now: float) -> None:
        self.exchange = None
        self._early = []
        self.resume_reading()
        self._connection.stream_done(self, now)

    def open_tunnel(self, tunnel: TunnelSink) -> TunnelEnd:
        early, self._early = self._early, []
        self.tunnel = StreamEnd(tunnel, self, early)
        return self.tunnel

    def end_tunnel(self) -> None:
        """The server sends no more."""
        if not self.has_sent_all:
            self.has_sent_all = True
            self._connection.codec.end(self.number)
            self._connection.has_frames()

    def close_tunnel(self) -> None:
        self.end_tunnel()
        self.tunnel = None
        self._ended(self._connection.context.clock())
