"""A connection by HTTP/2 to a server, which the requests of all clients share."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any, cast

from mypy_extensions import trait

from hermes_lb.backends.dialing import in_words
from hermes_lb.errors import BadResponse, ClosedBeforeResponse, ClosedInHead, ConnectFailed
from hermes_lb.http import frames as http2
from hermes_lb.http.client_frames import ClientFrames
from hermes_lb.http.frames import (
    DataReceived,
    GoAwayReceived,
    InformationalResponseReceived,
    ResponseReceived,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
)
from hermes_lb.proxy.http2.frame_io import FrameIo
from hermes_lb.proxy.http2.upstream_stream import ServerCarrier, UpstreamStream
from hermes_lb.transport.kernel import has_news

if TYPE_CHECKING:
    import asyncio

    from hermes_lb.backends import Server
    from hermes_lb.backends.dialing import ServerDialer
    from hermes_lb.errors import ServerFailed
    from hermes_lb.http.frames import Fields
    from hermes_lb.proxy.context import Context

# Bytes that are parsed at a time: as one large read (`transport.run_queue`).
_SLICE = 64 * 1024
# Seconds of silence, while requests run, before a PING asks whether the server is there, and
# seconds until it is given up (Go's `http2.Transport`: `ReadIdleTimeout`, off, and `PingTimeout`).
PING_AFTER, PING_TIMEOUT = 15.0, 15.0


@trait
class Home:
    """The pool, as far as its connections need it."""

    __slots__ = ()

    server: Server

    def forget(self, connection: Http2Upstream) -> None:
        """It takes no more requests."""
        raise NotImplementedError

    def has_idle(self, connection: Http2Upstream) -> None:
        """The last request on it has ended."""
        raise NotImplementedError


class Http2Upstream(FrameIo, ServerCarrier):
    """`ready`: the server's SETTINGS have come, and so it speaks HTTP/2.

    - `is_going`: it takes no more requests; those that run finish.
    - `idle_since`: while no request runs.
    """

    __slots__ = (
        "_answered",
        "_behind",
        "_has_served",
        "_most",
        "_pinged_at",
        "codec",
        "dialer",
        "heard_at",
        "home",
        "idle_since",
        "is_going",
        "is_lost",
        "ready",
        "reads",
        "scheme",
        "server",
        "streams",
    )

    def __init__(self, home: Home, context: Context, dialer: ServerDialer) -> None:
        settings = context.settings
        codec = ClientFrames(most_in_head=settings.most_in_head, most_fields=settings.most_fields)
        super().__init__(context, codec, _SLICE)
        self.codec = codec
        self.home = home
        self.server = home.server
        self.dialer = dialer
        self.scheme = dialer.scheme
        self.streams: dict[int, UpstreamStream] = {}
        self.ready: asyncio.Future[None] = context.loop.create_future()
        self.is_going = False
        self.is_lost = False
        self.heard_at = self.idle_since = context.clock()
        self.reads = 0
        self._most = 0
        self._has_served = False
        self._pinged_at = -1.0
        self._answered: list[UpstreamStream] = []
        self._behind: dict[UpstreamStream, None] = {}

    def __repr__(self) -> str:
        state = "going" if self.is_going else "open"
        return f"<Http2Upstream to {self.server.name}, {state}, {len(self.streams)} streams>"

    # What the pool calls.

    @property
    def has_room(self) -> bool:
        """Another request may begin. An idle one is looked at: it may have ended."""
        if self.is_going or len(self.streams) >= self._most or self.transport.is_closing():
            return False
        if not self.codec.can_ask:
            self.retire()
            return False
        return bool(self.streams) or not has_news(self.transport, select.POLLRDHUP)

    def open(self) -> UpstreamStream:
        return UpstreamStream(self, was_idle=self._has_served and not self.streams)

    @property
    def is_idle(self) -> bool:
        return not self.streams

    def retire(self) -> None:
        """No more requests; those that run finish."""
        if not self.is_going:
            self.is_going = True
            self.home.forget(self)
        if not self.streams:
            self.close()

    def close(self) -> None:
        """With a GOAWAY; nothing runs."""
        self.is_going = True
        if not (self._is_over or self.transport.is_closing()):
            self._is_over = True
            self.codec.go_away()
            if data := self.codec.take():
                self.context.send(self.transport, data)
            self._batch.close(self.transport)

    def sweep(self, now: float) -> None:
        """Is a silent server there, for which requests wait?"""
        if not self.streams or now - self.heard_at < PING_AFTER:
            return
        if self._pinged_at <= self.heard_at:  # the answer may come within the clock's resolution
            self._pinged_at = now
            self.codec.ping()
            self.has_frames()
        elif now - self._pinged_at >= PING_TIMEOUT:
            self._all_lost(ClosedInHead, "no answer to a PING")
            self.abort()

    def abort(self) -> None:
        self.give_up()
        self.transport.abort()

    def give_up(self) -> None:
        """Nothing is read or written any more. A dial that was cancelled has closed it already."""
        self.is_going = self._is_over = True

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        tls: Any = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._not_ready("it does not speak HTTP/2: it did not choose h2 by ALPN")
            return
        self.transport.write(self.codec.take())

    def _not_ready(self, reason: str) -> None:
        if not self.ready.done():
            where = f"{self.server.name} at {self.server.config.address}"
            self.ready.set_exception(ConnectFailed(f"{where}: {reason}"))
            self.ready.exception()  # retrieved: the dial may have been given up
        self.abort()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.context.clock()
        self.reads += 1
        self._batch.response_came(self, data)
        self.context.run_queue.received(self, len(data))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._batch.flush()
        while self._rest and not self._is_over:
            self.process(b"")
        self.is_lost = self.is_going = self._is_over = True
        self._not_ready("it closed without a word of HTTP/2")
        self.home.forget(self)
        why = f": {in_words(error)}" if isinstance(error, OSError) else ""
        self._all_lost(ClosedBeforeResponse, f"closed without a response{why}")
        self.context.live.shared.discard(self)
        self.context.live.connection_gone()

    # Input.

    @property
    def behind(self) -> int:
        return len(self._rest) + len(self._behind)

    def go_on(self) -> None:
        self._batch.response_came(self, b"")

    def _act(self) -> None:
        for event in self.codec.events():
            if isinstance(event, DataReceived):
                stream = self.streams.get(event.stream_id)
                if stream is None:
                    self.codec.credit(event.stream_id, len(event.data))
                else:
                    stream.data_came(event.data, ended=event.end_stream)
            elif isinstance(event, ResponseReceived):
                if (stream := self.streams.get(event.stream_id)) is not None:
                    stream.head_came(event.headers, ended=event.end_stream)
            elif isinstance(event, StreamClosed):
                self._closed(event)
            elif isinstance(event, TrailersReceived):
                if (stream := self.streams.get(event.stream_id)) is not None:
                    stream.trailers_came(event.headers)
            elif isinstance(event, InformationalResponseReceived):
                if (stream := self.streams.get(event.stream_id)) is not None:
                    stream.informational(event.headers)
            elif isinstance(event, SettingsReceived):
                before = self._most if self.ready.done() else http2.MOST_STREAMS
                said = event.settings.get(http2.MAX_CONCURRENT_STREAMS, before)
                self._most = min(said, http2.MOST_STREAMS)
                if not self.ready.done():
                    self.ready.set_result(None)
            elif isinstance(event, StreamReset):
                self.server.counters.http2_resets += 1
            elif isinstance(event, GoAwayReceived):
                if not self.is_going:  # the first of two, or the only one
                    self.server.counters.http2_goaways += 1
                self.retire()
        answered, self._answered = self._answered, []
        for stream in answered:
            stream.pass_on()

    def _closed(self, event: StreamClosed) -> None:
        stream = self.streams.pop(event.stream_id, None)
        if stream is not None:
            self._forget_queue(stream)
            stream.closed(event.error_code, is_malformed=event.local_error is not None)
            if not self.streams:
                self._is_free()

    def _is_free(self) -> None:
        self.idle_since = self.context.clock()
        if self.is_going:
            self.close()
        else:
            self.home.has_idle(self)

    def _proceed(self) -> None:
        behind, self._behind = self._behind, {}
        for stream in behind:
            stream.go_on()

    def _broken(self, problem: str) -> None:
        if not self.ready.done():
            self._not_ready(f"it does not speak HTTP/2: {problem}")
        self._all_lost(BadResponse, f"HTTP/2: {problem}")
        self.write_frames()  # says why, and ends

    def _all_lost(self, error: type[ServerFailed], reason: str) -> None:
        self.is_going = True
        self.home.forget(self)
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.lost(error, reason)
        while self._behind:
            self._proceed()

    # What the streams call.

    def begin(self, stream: UpstreamStream, fields: Fields, *, ends: bool) -> int:
        number = self.codec.request(fields, ends=ends)
        if not number:
            return 0
        self.streams[number] = stream
        self._has_served = True
        self.has_frames()
        return number

    def is_answered(self, stream: UpstreamStream) -> None:
        self._answered.append(stream)

    def is_behind(self, stream: UpstreamStream) -> None:
        self._behind[stream] = None
        self.context.run_queue.put_off(self)

    def let_go(self, stream: UpstreamStream) -> None:
        self.context.live.upstreams.discard(stream)
        self.context.live.connection_gone()
        self.has_frames()

    def _frames_are_over(self, last: bytes) -> None:
        """The server has gone away, and nothing runs; or it has broken the protocol."""
        self._is_over = True
        if not self.ready.done():
            self._not_ready("it does not speak HTTP/2")
        self._all_lost(BadResponse, "it has broken the protocol of HTTP/2")
        self._batch.close(self.transport)
