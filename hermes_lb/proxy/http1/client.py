"""The side that faces the client: bytes -> request heads, one exchange at a time.

Requests that are pipelined wait here, as bytes, until the response before them has left.
"""

from __future__ import annotations

import select
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from hermes_lb.errors import InvalidBody, RequestRefused
from hermes_lb.http import build_response, identity_fields, make_body
from hermes_lb.http.body import NEVER_BEHIND
from hermes_lb.http.rules import refuse_hopeless
from hermes_lb.http.version import HTTP2_PREFACE, HTTP11
from hermes_lb.proxy.admit import admit
from hermes_lb.proxy.exchange import Exchange
from hermes_lb.proxy.http1.intake import Intake
from hermes_lb.proxy.http1.tunnel_end import ClientEnd
from hermes_lb.proxy.local_replies import refusal
from hermes_lb.proxy.ports import Connection, Downstream, Source
from hermes_lb.proxy.record import record_refusal
from hermes_lb.tls.above import TlsClient
from hermes_lb.transport.addresses import UNIX, plain_address
from hermes_lb.transport.endpoint import FULL, SHARE
from hermes_lb.transport.kernel import has_news, reset_when_closed

if TYPE_CHECKING:
    import asyncio

    from hermes_lb.http import Body, ResponseHead
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.local_replies import LocalReply
    from hermes_lb.proxy.ports import Peer, TunnelEnd, TunnelSink

_NEVER = float("inf")
_HEAD_END = b"\r\n\r\n"

# Seconds. After an early response the client's further bytes are read and discarded for this time,
# or until they are too many: closing at once could make the kernel discard the response
# (RFC 9112 section 9.6; nginx `lingering_time`, `lingering_timeout`).
_LINGER = 5.0

# Seconds in which a client may send one more request before its connection is closed; the response
# has `Connection: close`. The request may be on its way, and closing at once would lose it. With
# the sweep's coarseness it is one second at most.
_GRACE = 0.5
# A client that has sent nothing for this time since accept will probably not within a second more.
_FRESH = 1.0

# Terminations of a client that has left before its response: its connection ends by itself, when
# the responses before have left.
_LEFT = frozenset(("CR", "CQ", "CC", "CH"))


class ClientConnection(Intake, Connection, Downstream, Source, TlsClient):
    """One connection from a client.

    `deadline` is for the time between exchanges, which have their own. The sweep looks at both, and
    no timer is set.
    """

    __slots__ = (
        "_batch",
        "_bind_number",
        "_body",
        "_has_served",
        "_is_http11",
        "_is_proxied",
        "_may_keep",
        "_grace_used",
        "_is_counted",
        "_is_batched",
        "_live",
        "_searched",
        "_successor",
        "_unsent",
        "awaits",
        "context",
        "deadline",
        "exchange",
        "is_closing",
        "peer",
        "received_at",
    )

    def __init__(
        self, peer: Peer, context: Context, *, bind_number: int = 1, is_proxied: bool = False
    ) -> None:
        """`bind_number`: of the frontend's binds. `is_proxied`: a PROXY header comes first."""
        super().__init__()
        self.peer = peer
        self.context = context
        self._batch = context.batch
        self._live = context.live
        self._bind_number = bind_number
        self._is_proxied = is_proxied
        self._is_http11 = True
        self._body: Body | None = None  # of the present request, until all of it has come
        self._may_keep = False  # the head of the present response says so
        self.exchange: Exchange | None = None
        self.awaits = ""  # incomplete input that precedes the request: TLS, a PROXY header
        self.deadline = _NEVER
        self.received_at = 0.0  # the first byte of the head that is being received
        self.is_closing = False
        self._has_served = False  # a request at least
        self._grace_used = False  # its time was up, and something unread was there
        self._is_counted = False  # among the connections of its address
        self._is_batched = False  # bytes of a head wait for the end of the loop iteration
        self._searched = 0  # of `_held`: no end of a head starts before
        self._successor: Connection | None = None  # has the connection by another version of HTTP
        self._unsent = 0

    def __repr__(self) -> str:
        state = "closing" if self.is_closing else repr(self.exchange) if self.exchange else "idle"
        return f"<ClientConnection {self.peer.log_name}, {state}>"

    @property
    def is_idle(self) -> bool:
        """True between two requests: no byte of the next one has arrived."""
        return self._has_served and self._is_silent

    @property
    def _is_silent(self) -> bool:
        has_begun = self.exchange is not None or self._held or self._is_batched or self.awaits
        return not (has_begun or self.is_closing)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        context = self.context
        self.transport = cast("asyncio.Transport", transport)
        self.received_at = now = context.clock()
        self.deadline = now + context.settings.timeouts.request_head
        self._live.clients.add(self)
        counters = self.peer.frontend.counters
        counters.connections += 1
        counters.connections_total += 1
        if transport.get_extra_info("peername") is None:  # reset before it was accepted
            self.is_closing = True
            self.transport.abort()
        elif self._is_proxied:
            self._is_named(*self.peer_name())  # until its PROXY header has named the client
        else:
            self.came_from(*self.peer_name())
        self._live.gate.acquire()

    def peer_name(self) -> tuple[str, int]:
        """Address and port of the other end; of a unix socket, HAProxy's `unix:1`."""
        peer: Any = self.transport.get_extra_info("peername")
        return (peer[0], peer[1]) if peer else (UNIX, self._bind_number)

    def came_from(self, address: str, port: int) -> None:
        """Whose connection it is, for the log, the limits, the strategies and the servers."""
        address = self._is_named(address, port)
        peer = self.peer
        peer.identity = identity_fields(address, peer.scheme)
        peer.is_trusted = peer.frontend.trusts(address)
        counter = self.context.client_limits.connections
        self._is_counted = not peer.is_trusted and counter.acquire(address)
        if not (peer.is_trusted or self._is_counted):
            error = RequestRefused(429, "too many connections from this address", "PR")
            if (
                peer.scheme == b"https"
            ):  # nothing can be said before the handshake, which costs too much
                self.reject(error.reason)
            else:
                self.refuse(error)

    def _is_named(self, address: str, port: int) -> str:
        """Set the address that the log shows -> the plain address."""
        peer = self.peer
        peer.address = address = plain_address(address)
        peer.port = port
        peer.log_name = f"{address}:{port}"
        return address

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            self._is_batched = True
            self._batch.request_came(self, data)
        else:
            self._receive(exchange, data)
        if len(data) > NEVER_BEHIND:
            self.context.run_queue.received(self, len(data))

    @property
    def unsent(self) -> int:
        """Bytes that were sent and that the kernel has not taken."""
        transport = self.transport
        return transport.get_write_buffer_size() + self._batch.pending(transport)

    @property
    def behind(self) -> int:
        return 0 if self._body is None or self.exchange is None else self._body.behind

    def go_on(self) -> None:
        if self.exchange is not None:
            self._receive(self.exchange, b"")

    def eof_received(self) -> bool:
        """The client has left, as far as one can know (nginx does the same, with a 499)."""
        self._left()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._left()
        self.forget()

    def _left(self) -> None:
        if self._is_batched:
            self._batch.flush()
        if self.exchange is not None:
            self.exchange.client_left()
            self._drop_held()  # the bytes that were to follow never will
        elif (self._held or self.awaits) and not self.is_closing:
            what = self.awaits or "request head"
            left = RequestRefused(0, f"the client left within a {what}", "CR")
            self._record(left)
            self._drop_held()
            self.awaits = ""

    def pause_writing(self) -> None:
        self.is_writing_paused = True
        if self.exchange is not None:
            self.exchange.client_is_slow()

    def resume_writing(self) -> None:
        self.is_writing_paused = False
        if self.exchange is not None:
            self.exchange.client_caught_up()
        elif self._held:
            self._next_pipelined()

    # What the exchange calls.

    @property
    def can_insert(self) -> bool:
        return self._is_http11

    @property
    def takes_chunks(self) -> bool:
        return self._is_http11

    def local_address(self) -> tuple[str, int]:
        here = self.transport.get_extra_info("sockname")
        return (plain_address(here[0]), here[1]) if isinstance(here, tuple) else ("", 0)

    def body_for(self, head: ResponseHead, length: int) -> Body:
        exchange = self.exchange
        takes_trailers = exchange is not None and exchange.head.takes_trailers
        return make_body(length, to_http11=self._is_http11, takes_trailers=takes_trailers)

    def send_informational(self, head: ResponseHead) -> int:
        if not self._is_http11:
            return 0
        block = build_response(head, head.forwarded, True, True, 0)
        self._batch.send(self.transport, block)
        return len(block)

    def send_head(
        self,
        head: ResponseHead,
        fields: bytes,
        length: int,
        may_keep: bool,
        first: bytes,
    ) -> int:
        is_http11 = self._is_http11
        may_keep = may_keep and self._live.keeps_clients and (is_http11 or length >= 0)
        self._may_keep = may_keep
        block = build_response(head, fields, is_http11, may_keep, length, first)
        self._batch.send(self.transport, block)
        return len(block)

    def send(self, data: bytes) -> None:
        self._batch.send(self.transport, data)

    def send_data(self, data: bytes) -> None:
        batch, transport = self._batch, self.transport
        if batch.writes:
            batch.send(transport, data)
        elif not transport.is_closing():
            transport.write(data)

    def reply(self, reply: LocalReply, *, may_keep: bool) -> int:
        self._may_keep = may_keep = may_keep and self._live.keeps_clients
        context = self.context
        # RFC 9110 section 8.6: none in a 204.
        length = b"Content-Length: %d\r\n" % len(reply.body) if reply.status != 204 else b""
        block = b"HTTP/1.1 %d %b\r\n%b%bConnection: %b\r\n%b\r\n%b" % (
            reply.status,
            HTTPStatus(reply.status).phrase.encode("ascii"),
            reply.fields,
            length,
            b"keep-alive" if may_keep else b"close",
            context.wall_clock.date(context.clock()),
            b"" if reply.is_head else reply.body,
        )
        self._batch.send(self.transport, block)
        return len(block)

    def exchanges(self) -> tuple[Exchange, ...]:
        return () if self.exchange is None else (self.exchange,)

    def open_tunnel(self, tunnel: TunnelSink) -> TunnelEnd:
        return ClientEnd(tunnel, self, self.context)

    # Request heads.

    def process(self, data: bytes) -> None:
        """Process the bytes that `data_received` queued."""
        self._is_batched = False
        exchange = self.exchange
        if exchange is not None:  # earlier bytes have begun a request
            self._receive(exchange, data)
            self.context.run_queue.received(self, len(data))
        elif self.is_closing:
            self._discards_left -= len(data)
            if self._discards_left < 0:
                self.transport.abort()
        elif self.is_writing_paused:  # it reads the answers that it has before it gets more
            self.unread(data)
        elif self._held:
            self.unread(data)
            self._start_held()
        else:
            self.received_at = now = self.context.clock()
            end = data.find(_HEAD_END) + 4
            if end >= 4:
                is_all = end == len(data)
                self._start(data if is_all else data[:end], b"" if is_all else data[end:], now)
            else:
                self.deadline = now + self.context.settings.timeouts.request_head
                self._hold(data)
                self._start_held()

    def _start_held(self) -> None:
        """Look for a whole head in the held bytes."""
        held = self._held
        end = held.find(_HEAD_END, self._searched) + 4
        if end >= 4:
            self._searched = 0
            self._start(self._take(end), None, self.context.clock())
            self._read_on_for_heads()
        elif len(held) > self.context.settings.most_in_head:
            self.refuse(self.context.settings.request_parser.too_large(held))
        else:
            try:
                refuse_hopeless(held, self._searched)
            except RequestRefused as error:
                self.refuse(error)
                return
            self._searched = max(0, len(held) - 3)
            self.resume_from(FULL)

    def _start(self, data: bytes, rest: bytes | None, now: float) -> None:
        """`data` is one head. `rest` follows it, of its body or of the next request; None: those
        bytes are held."""
        context = self.context
        settings = context.settings
        try:
            if len(data) > settings.most_in_head:
                raise settings.request_parser.too_large(data)
            head = settings.request_parser.parse(data)
        except RequestRefused as error:
            if data != HTTP2_PREFACE or not self._becomes_http2(data, rest):
                self.refuse(error)
            return
        self._is_http11 = head.version == HTTP11
        frontend = self.peer.frontend
        if frontend.is_stopped:  # whatever the client says, this is the last one
            head.keep_alive = False
        if rest is None:
            rest = self._take_body(head.length) if head.length else b""
        elif rest and 0 <= head.length < len(rest):
            self.unread(rest[head.length :])
            rest = rest[: head.length]
        frontend.counters.requests += 1
        self.exchange = exchange = Exchange(self, head, context, now)
        if not admit(exchange, now):
            return
        if head.length:
            self._begin_with_body(exchange, head.length, rest, now)
        else:
            exchange.begin(b"", True, now)

    def _becomes_http2(self, preface: bytes, rest: bytes | None) -> bool:
        """Continue by HTTP/2, if this is allowed here: by ALPN, or without TLS."""
        make = self.peer.frontend.make_http2
        tls = self.transport.get_extra_info("ssl_object")
        if make is None or self._has_served:
            return False
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            return False
        self._successor = successor = make(self)
        self._live.clients.remove(self)
        self._live.clients.add(successor)
        self.transport.set_protocol(cast("asyncio.Protocol", successor))
        self.resume_from(FULL)
        data = self.take_held() if rest is None else rest
        successor.process(preface + data)
        return True

    # The request's body.

    def _begin_with_body(self, exchange: Exchange, length: int, rest: bytes, now: float) -> None:
        """`rest` is the received part of the body, and, if that is chunked, the bytes after it."""
        if length == len(rest):
            exchange.bytes_in = length
            exchange.begin(rest, True, now)
            return
        takes_trailers = exchange.head.takes_trailers  # and so it may send some
        self._body = make_body(length, to_http11=True, takes_trailers=takes_trailers)
        data = self._taken(exchange, rest) if rest else b""
        if data is None:
            return
        exchange.begin(data, self._body is None, now)
        if exchange is self.exchange and self._body is not None:
            if self._held:
                self._receive(exchange, self._take(len(self._held)))
            if self.behind:
                self.context.run_queue.put_off(self)

    def _receive(self, exchange: Exchange, data: bytes) -> None:
        """Bytes behind the head of the present request: of its body, or of the next request."""
        if self._body is not None:
            passed = self._taken(exchange, data)
            if passed is not None:
                ended = self._body is None
                exchange.receive(passed)
                if ended and exchange is self.exchange:
                    exchange.request_ended()
        elif self._refuses:
            self.discard(data)
        else:
            self.unread(data)

    def _taken(self, exchange: Exchange, data: bytes) -> bytes | None:
        """`data` as the server gets it; None: the framing is broken, and the request was refused.

        At the end of the body `_body` is None.
        """
        body = self._body
        assert body is not None
        arrived = body.behind + len(data)
        try:
            passed = body.feed(data)
        except InvalidBody as error:
            self._body = None
            exchange.bytes_in += arrived
            exchange.refuse_body(error)
            return None
        exchange.bytes_in += arrived - body.behind - len(body.excess)
        if body.is_done:
            self._body = None
            if body.excess:
                self.unread_first(body.excess)
        return passed

    def refuse_rest(self) -> None:
        self._body = None
        super().refuse_rest()

    # Ends.

    def done(self, now: float, is_read: bool) -> None:
        self.exchange = None
        context = self.context
        is_last = self.peer.frontend.is_stopped  # perhaps since the response began
        if self._may_keep and is_read and (self._live.keeps_clients or is_last):
            self.deadline = now + (_GRACE if is_last else context.settings.timeouts.keep_alive)
            self._has_served = True
            self._grace_used = False
            if self._paused_by:
                self.resume_reading()
            if self._held:
                # Not from here: a thousand pipelined requests must not become a thousand frames,
                # and one of them in each loop iteration is this client's share.
                context.loop.call_soon(self._next_pipelined)
        else:
            self.close(lingering=not is_read or bool(self._held))

    def cut_off(self, termination: str) -> None:
        self.exchange = None
        if termination not in _LEFT:
            # Chunks and lengths show that something is missing. Without them only a reset does.
            self.abort(reset=not self._is_http11)

    def shut_down(self) -> None:
        if self.exchange is not None:
            self.exchange.shut_down()
        else:
            self.abort()

    def _next_pipelined(self) -> None:
        is_free = self.exchange is None and not self.is_writing_paused
        if is_free and not self.is_closing and not self.transport.is_closing():
            self.received_at = now = self.context.clock()
            self.deadline = now + self.context.settings.timeouts.request_head
            self._start_held()

    def close_gracefully(self, now: float) -> None:
        """Idle connections may send one more request within `_GRACE`.

        nginx also spares those without a request so far (`ngx_close_idle_connections`).
        """
        if self.exchange is not None:
            self.exchange.head.keep_alive = False
        elif self._is_silent and (self._has_served or now - self.received_at > _FRESH):
            self.deadline = min(self.deadline, now + _GRACE)

    def refuse(self, error: RequestRefused) -> None:
        """Answer a request that was not understood; its end is unknown, so this is the last."""
        self.awaits = ""
        reply = refusal(error, self.context.settings.error_pages)
        self._record(error, self.reply(reply, may_keep=False))
        self.close(lingering=True)

    def _record(self, error: RequestRefused, size: int = 0) -> None:
        record_refusal(self, self.context, self.context.clock(), error, size)

    def reject(self, reason: str, termination: str = "PR") -> None:
        """Close without a word, before the first request: there was no way to say anything."""
        self.awaits = ""
        self._record(RequestRefused(0, reason, termination))
        self.close()

    def tls_begun(self) -> None:
        self.awaits = "TLS handshake"

    def tls_opened(self, version: str, server_name: str, certificate: bytes) -> None:
        self.awaits = ""
        peer = self.peer
        peer.tls_version = version
        peer.tls_name = server_name
        peer.certificate = certificate
        peer.identity = certificate + peer.identity

    def tls_failed(self) -> None:
        self.peer.frontend.counters.tls_failures += 1

    def cut(self, reason: str) -> None:
        """End at once, for what the client does to its connection whatever it asks for."""
        if self._is_batched:
            self._batch.flush()
        error = RequestRefused(0, reason)
        if self.exchange is not None:
            self.peer.frontend.counters.refuse(error.status, reason)
            self.exchange.abort_client("P" + self.exchange.letter, reason)
            return
        if not self.is_closing:
            self._record(error)
        self.abort()

    def close(self, *, lingering: bool = False) -> None:
        """Close when all written bytes have left. `lingering`: the client may still be sending."""
        if self.is_closing:
            return
        self.is_closing = True
        self._drop_held()
        self._unsent = self.unsent
        now = self.context.clock()
        if lingering and self.transport.can_write_eof():
            self.deadline = now + _LINGER
            self.refuse_rest()
            self._batch.write_all()
            try:
                self.transport.write_eof()
            except OSError:  # asyncio's own loop, and a client that has gone while it was not read
                self.transport.abort()
        else:
            self.deadline = now + self.context.settings.timeouts.client
            self._batch.close(self.transport)

    def abort(self, *, reset: bool = False) -> None:
        """End at once, in a way that the client can't take for a clean end.

        `reset`: by a TCP reset, for a response that only the end of the connection ends.
        """
        self.is_closing = True
        self._batch.write_all()
        if reset:
            reset_when_closed(self.transport)
        self.transport.abort()

    def forget(self) -> None:
        """The transport is closed: leave all registers."""
        self.is_closing = True
        self.deadline = _NEVER
        live = self._live
        registered = self._successor or self
        self._successor = None
        if registered in live.clients:
            live.clients.remove(registered)
            self.peer.frontend.counters.connections -= 1
            if self._is_counted:
                self.context.client_limits.connections.release(self.peer.address)
            live.gate.release()
            live.connection_gone()

    # Deadlines.

    def sweep(self, now: float) -> None:
        """Called by the sweep, a few times a second at most."""
        if self.exchange is not None:
            self.exchange.sweep(now)
        elif self.deadline <= now:
            self._expire(now)
        if self._paused_by & ~SHARE:
            self._look_for_its_end()

    def _look_for_its_end(self) -> None:
        """Ask the kernel whether the client has left: the loop reports it only while we read."""
        exchange = self.exchange
        if exchange is None or self.transport.is_closing():
            return
        # A tunnel's half-close is reported in order, after the bytes before it.
        if has_news(self.transport, 0 if exchange.tunnel is not None else select.POLLRDHUP):
            exchange.client_left()
            self.transport.abort()

    def _expire(self, now: float) -> None:
        unsent = self.unsent
        if 0 < unsent < self._unsent:  # slow, but it reads
            self._unsent = unsent
            self.deadline = now + self.context.settings.timeouts.client
        elif self.is_closing:
            self.transport.abort()
        elif self._held and not self.is_writing_paused:
            self.refuse(RequestRefused(408, "the request head took too long", "cR"))
        elif self.awaits:
            self.reject(f"the {self.awaits} took too long", "cR")
        elif self._has_unread() and not self._grace_used:
            self._grace_used = True  # till the next sweep: bytes without a request gain no more
        else:
            self.close()  # an idle connection; no request is waiting

    def _has_unread(self) -> bool:
        """True if its next request may have arrived: the loop runs late timers before it reads."""
        return not self.transport.is_closing() and has_news(self.transport, select.POLLIN)
