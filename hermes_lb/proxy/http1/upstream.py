"""The side that faces a server: bytes -> response heads, and the body to the relay."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from typing import TYPE_CHECKING, cast

from hermes_lb.backends.dialing import in_words
from hermes_lb.errors import BadResponse, ClosedBeforeResponse, ClosedInHead, InvalidResponse
from hermes_lb.http.body import NEVER_BEHIND
from hermes_lb.http.response import STRAY_LINE
from hermes_lb.proxy.http1.tunnel_end import ServerEnd
from hermes_lb.proxy.ports import Kept, ServerSide
from hermes_lb.transport.endpoint import SHARE, VERDICT, Endpoint
from hermes_lb.transport.kernel import INPUT, duplicate, has_news, received

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from hermes_lb.backends.dialing import ServerDialer, Tls
    from hermes_lb.http import Body
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.http1.connection_pool import ServerConnections
    from hermes_lb.proxy.ports import RequestBody, ResponseSink, TunnelEnd, TunnelSink

# `tcpi_last_data_recv` of `struct tcp_info` (linux/tcp.h), in milliseconds.
_LAST_DATA = slice(52, 56)

_HEAD_END = b"\r\n\r\n"

# Not yet part of a response: nothing, or some of an empty line before it.
_NOTHING = frozenset((b"", STRAY_LINE[:1], STRAY_LINE))


class UpstreamConnection(Endpoint, ServerSide, Kept):
    """One connection to a server; it serves one exchange at a time, or is idle."""

    __slots__ = (
        "_context",
        "_descriptor",
        "_duplicate",
        "_ended_by",
        "_is_held",
        "_is_batched",
        "_is_refused",
        "_more",
        "_pending",
        "_tls",
        "body",
        "dialer",
        "home",
        "idle_since",
        "is_early",
        "is_lost",
        "is_reused",
        "is_tls",
        "keep_alive",
        "_is_tunnel",
        "_last_progress",
        "server",
        "sink",
        "upload",
    )

    def __init__(self, home: ServerConnections, context: Context, dialer: ServerDialer) -> None:
        super().__init__()
        self.home = home
        self.server = home.server
        self.dialer = dialer  # who made it
        self._context = context
        self.sink: ResponseSink | None = None
        self.body: Body | None = None  # of the response, once its head has come
        self.keep_alive = True  # from the response head
        self.idle_since = 0.0
        self.is_lost = False
        self.is_reused = False
        self.upload: RequestBody | None = None  # of the request, if its body is more than one piece
        self.is_early = False  # the response began before all of the request had been sent
        self._last_progress: tuple[tuple[float, int], float] | None = (
            None  # progress, and since when
        )
        self._is_tunnel = False
        self._is_batched = False  # bytes of a head wait for the end of the loop iteration
        self._more = b""  # later bytes of the same iteration
        self._is_held = False  # a response head, which is in `_pending` with all bytes after it
        # While that, or a part of the body, waits: the error that ended it, if there was one.
        self._ended_by: tuple[Exception | None, ...] = ()
        self._descriptor = -1  # from its second request on
        self._is_refused = False  # it had ended before its present request was written
        self._pending = b""  # of a response head that is not complete
        self._tls: Tls | None = None
        self.is_tls = False
        self._duplicate = -1  # of the descriptor, while an upload goes on over TLS

    def __repr__(self) -> str:
        state = f"serves {self.sink!r}" if self.sink else "idle"
        return f"<UpstreamConnection to {self.server.name}, {state}>"

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._tls = transport.get_extra_info("ssl_object")
        self.is_tls = self._tls is not None

    def data_received(self, data: bytes) -> None:
        sink = self.sink
        if sink is None:
            # Unexpected bytes: whatever they are, they belong to no request.
            self.home.forget(self)
            self.transport.abort()
        else:
            body = self.body
            if body is not None:
                sink.response_data(self, body, data)
            elif self._is_batched:
                self._more += data
            else:
                batch = self._context.batch
                if not self._pending:
                    if batch.reused and self._is_unsent:
                        self.refuse()
                        return
                    # The first bytes of a head. Only bytes that the kernel has count as sent:
                    # others could still leave in this loop iteration, after the response.
                    upload = self.upload
                    self.is_early = (upload is not None and not upload.is_sent(self)) or (
                        self.transport.get_write_buffer_size() > 0
                    )
                self._is_batched = True
                batch.response_came(self, data)
            if len(data) > NEVER_BEHIND:
                self._context.run_queue.received(self, len(data))

    @property
    def unsent(self) -> int:
        """Bytes that were sent and that the kernel has not taken."""
        transport = self.transport
        return transport.get_write_buffer_size() + self._context.batch.pending(transport)

    @property
    def behind(self) -> int:
        if self.body is None or self.sink is None:
            return 0
        return self.body.behind

    def go_on(self) -> None:
        if self.body is not None and self.sink is not None:
            self.sink.response_data(self, self.body, b"")
        if self._ended_by and not self.behind:
            self._ended(self._ended_by[0])

    def eof_received(self) -> bool:
        """The server has ended its side: it sends nothing more, and gets nothing more.

        With TLS this is its close_notify. For an end without one uvloop calls `connection_lost`
        alone, but asyncio's own loop calls this.
        """
        if self._is_batched:
            self._context.batch.flush()
        self._ended(self._cut(self._tls) if self._tls is not None else None)
        self.transport.abort()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self._is_batched:
            self._context.batch.flush()
        if error is not None and self.sink is not None:
            self._read_what_is_left()
        self._upload_over()
        self.is_lost = True
        self._context.live.upstreams.discard(self)
        if self._tls is not None and error is None:
            error = self._cut(self._tls)
        self._ended(error)
        self._context.live.connection_gone()

    def _read_what_is_left(self) -> None:
        """Read what the kernel had received before the end: both loops stop at a failed write.

        A server that answers an upload from its head, and closes, has the rest of that unread, so
        its kernel resets the connection: our next write fails, with the answer in our receive
        buffer. nginx and HAProxy read on after a failed write, too.
        """
        left: Iterator[bytes]
        if self._tls is not None:
            left = self._tls.decrypt(received(self._duplicate))
        else:  # both loops close the descriptor after this call
            left = received(self.transport.get_extra_info("socket").fileno())
        for data in left:
            self.data_received(data)
            if self._is_batched:
                self._context.batch.flush()
            if self.sink is None or self.behind or self._paused_by & ~SHARE:
                return

    @staticmethod
    def _cut(tls: ssl.SSLObject) -> Exception | None:
        """An end without a close_notify may be an attacker's (RFC 9112 section 9.8)."""
        try:
            if not tls.read(1):
                return None
        except ssl.SSLZeroReturnError:
            return None
        except ssl.SSLError:
            pass
        return ConnectionResetError("the connection ended without a TLS close_notify")

    def _ended(self, error: Exception | None) -> None:
        if self._is_held or self.behind:
            self._ended_by = self._ended_by or (error,)
            return
        if self._is_unsent:
            self.refuse()
            return
        sink, self.sink = self.sink, None
        name = self.server.name
        if sink is None:
            self.home.forget(self)
        elif self.body is not None:
            body, self.body = self.body, None
            sink.response_ended(body, error)
        elif self._pending not in _NOTHING:
            sink.server_failed(ClosedInHead(f"{name} closed in the middle of a response head"))
        else:
            why = f": {in_words(error)}" if isinstance(error, ssl.SSLError) else ""
            sink.server_failed(ClosedBeforeResponse(f"{name} closed without a response{why}"))

    def pause_writing(self) -> None:
        self.is_writing_paused = True
        if self.sink is not None:
            self.sink.server_is_slow()

    def resume_writing(self) -> None:
        self.is_writing_paused = False
        if self.sink is not None:
            self.sink.server_caught_up()

    # What the exchange calls.

    def send_request(
        self, sink: ResponseSink, data: bytes, upload: RequestBody | None = None
    ) -> None:
        """Start to serve `sink`: send its head, and the received part of its body.

        `upload` sends the rest of the body.
        """
        self.sink = sink
        self.body = None
        if upload is not None:
            self.upload = upload
            if self._tls is not None:
                # Above TLS the descriptor is closed before `connection_lost` can read.
                self._duplicate = duplicate(self.transport)
        if self.is_reused and upload is None and self._tls is None:
            if self._descriptor < 0:
                self._descriptor = self.transport.get_extra_info("socket").fileno()
            self._context.batch.reuse(self, self._descriptor, data)
        else:
            self._context.send(self.transport, data)

    @property
    def _is_unsent(self) -> bool:
        """True until its present request is written, if it is a reused connection's."""
        return self._context.batch.reused.get(self._descriptor) is self

    def refuse(self) -> None:
        """Drop its request, and report that in the next batch."""
        self._is_refused = self._is_batched = True
        self.transport.abort()  # what is queued for it is dropped
        self._context.batch.response_came(self, b"")

    def send(self, data: bytes) -> None:
        self._context.send(self.transport, data)

    def expect(self, body: Body) -> None:
        self.body = body

    def pass_to(self, sink: ResponseSink) -> None:
        self.sink = sink

    @property
    def has_unwritten(self) -> bool:
        return self._context.batch.pending(self.transport) > 0

    def open_tunnel(self, tunnel: TunnelSink) -> TunnelEnd:
        self._is_tunnel = True
        return ServerEnd(tunnel, self, self._context)

    def silence(self, now: float) -> float | None:
        """The kernel knows when the last bytes came by TCP. Of a Unix socket it does not, so the
        progress of the exchange is compared with that of the last look; the first look counts as
        progress.
        """
        sink = self.sink
        if sink is None or self.transport.is_closing():
            return None
        if self.body is None and not self._is_tunnel:
            return None
        sock = self.transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA.stop)
            return int.from_bytes(info[_LAST_DATA], sys.byteorder) / 1000.0
        progress = sink.progress
        if self._last_progress is None or self._last_progress[0] != progress:
            self._last_progress = progress, now
        return now - self._last_progress[1]

    def has_news(self) -> bool:
        """True if an idle connection has input that the loop has not reported yet.

        With TCP that can only be its end, or unexpected bytes; with TLS also a session ticket. TLS
        may also hold an end that the kernel has already delivered.
        """
        return has_news(self.transport, INPUT) or (
            self._tls is not None and self._has_tls_news(self._tls)
        )

    def _has_tls_news(self, tls: ssl.SSLObject) -> bool:
        try:
            tls.read(1)
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            pass
        # An end, or an unexpected byte, that the loop will not find any more.
        self.transport.abort()
        return True

    def hold(self, until: Awaitable[object]) -> None:
        """Keep the response head that is being reported, and report it again when `until` ends; of
        a body report an empty part then."""
        self._is_held = True
        self.pause_for(VERDICT)
        self._context.tasks.spawn(self._deliver_again(until), name="hold a response head")

    async def _deliver_again(self, until: Awaitable[object]) -> None:
        try:
            await until
        except asyncio.CancelledError:  # the balancer ends
            self._is_held = False
            if self._ended_by:
                self._ended(self._ended_by[0])
            raise
        self._is_held = False
        if self.sink is None:  # it has ended in the meantime
            self.home.forget(self)
            return
        self.resume_from(VERDICT)
        self._is_batched = True
        self._context.batch.response_came(self, b"")

    def give_back(self, now: float, is_clean: bool) -> None:
        """The exchange is over. `is_clean`: both messages ended exactly where they should.

        A server that answered early may take unread bytes for the next request. nginx has the same
        condition (`request_body_sent` in ngx_http_upstream_free_keepalive_peer).
        """
        self.sink = None
        self.body = None
        if self.upload is not None:
            self._upload_over()
        if is_clean and self._tls is not None and not self.is_reused:
            self.dialer.remember(self._tls)
        is_over = self._is_batched or self._ended_by
        if is_clean and self.keep_alive and not (self.is_early or is_over):
            if self._paused_by:
                self.resume_reading()
            self.is_reused = True
            self.home.put_idle(self, now)
        else:
            self.transport.abort()

    def abort(self) -> None:
        """End the exchange on this side at once: the server sees its client leave."""
        self.sink = self.body = None  # the body may refer to this connection
        self._upload_over()
        self.transport.abort()

    def _upload_over(self) -> None:
        """Stop sending the request's body."""
        self.upload = None
        if self._duplicate >= 0:
            os.close(self._duplicate)
            self._duplicate = -1

    def close(self) -> None:
        """An idle connection that is no longer needed."""
        self.transport.close()

    def process(self, data: bytes) -> None:
        """Process the bytes that `data_received` queued."""
        self._is_batched = False
        if self._more:
            data += self._more
            self._more = b""
        sink = self.sink
        if sink is None:  # it has ended in the meantime
            self.home.forget(self)
            self.transport.abort()
            return
        if self._is_refused:
            self.sink = None
            sink.not_sent()
            return
        if self.body is not None:  # the bytes before were its response head
            sink.response_data(self, self.body, data)
            self._context.run_queue.received(self, len(data))
            return
        if self._pending:
            data = self._pending + data
            self._pending = b""
        if self._is_held:
            self._pending = data
            return
        self._process_heads(sink, data)
        if len(data) > NEVER_BEHIND and self.behind:
            self._context.run_queue.put_off(self)
        elif self._ended_by and not self._is_held:
            self._ended(self._ended_by[0])

    def _process_heads(self, sink: ResponseSink, data: bytes) -> None:
        settings = self._context.settings
        while data:
            end = data.find(_HEAD_END) + 4
            if not 4 <= end <= settings.most_in_head:
                self._wait_for_more(sink, data)
                return
            rest = b""
            if end != len(data):
                data, rest = data[:end], data[end:]
            try:
                head = settings.response_parser.parse(data)
            except InvalidResponse as problem:
                sink.server_failed(BadResponse(f"{self.server.name}: {problem}"))
                return
            self.keep_alive = head.keep_alive
            if head.status >= 200 or head.status == 101:
                sink.response_head(self, head, rest)
                if self._is_held and self.body is None:
                    self._pending = data + rest
                return
            if not sink.informational(head):
                return
            data = rest

    def _wait_for_more(self, sink: ResponseSink, data: bytes) -> None:
        """A head that is not complete."""
        if len(data) > self._context.settings.most_in_head:
            sink.server_failed(BadResponse("the response head is too large"))
        else:
            self._pending = data
