"""The side that faces the client: bytes -> request heads, one exchange at a time.

Requests that are pipelined wait here, as bytes, until the response before them has left.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any, cast

from hermes_lb.errors import RequestRefused
from hermes_lb.http import identity_fields
from hermes_lb.http.body import NEVER_BEHIND
from hermes_lb.http.rules import refuse_hopeless
from hermes_lb.proxy import local_replies
from hermes_lb.proxy.exchange import Exchange
from hermes_lb.proxy.http1.intake import Intake
from hermes_lb.proxy.record import record_refusal
from hermes_lb.proxy.reply_texts import refusal
from hermes_lb.transport.addresses import UNIX, plain_address
from hermes_lb.transport.endpoint import FULL, SHARE
from hermes_lb.transport.kernel import has_news, reset_when_closed

if TYPE_CHECKING:
    import asyncio

    from hermes_lb.listen.frontend import Frontend
    from hermes_lb.listen.listener import Listener
    from hermes_lb.proxy.context import Context

_NEVER = float("inf")
_HEAD_END = b"\r\n\r\n"

# Seconds. After an early answer the rest of what the client sends is read and thrown away for so
# long, or until it is too much: closing at once could make the kernel discard the answer
# (RFC 9112 section 9.6; nginx `lingering_time`, `lingering_timeout`).
_LINGER = 5.0

# Seconds in which a client that is to leave may ask once more, and is told then that it was the
# last time: its next request may be on its way, and to close at once would lose it. With the
# sweep's coarseness it is one second at most.
_GRACE = 0.5
# Who has said nothing for so long since it came will probably not do so within the next second.
_FRESH = 1.0


class ClientConnection(Intake):
    """One connection from a client.

    `deadline` is checked by the sweep; `has_moved` tells it that bytes went either way, so the
    deadline moves to `idle_timeout` from now. No timer is set and no clock is read per chunk.
    """

    __slots__ = (
        "_has_served",
        "_is_spared",
        "_is_counted",
        "_is_noted",
        "_searched",
        "_unsent",
        "address",
        "awaits",
        "certificate",
        "context",
        "deadline",
        "destination",
        "exchange",
        "frontend",
        "has_moved",
        "identity",
        "idle_timeout",
        "is_closing",
        "is_trusted",
        "log_name",
        "port",
        "received_at",
        "via",
    )

    def __init__(self, frontend: Frontend, context: Context, via: Listener) -> None:
        super().__init__()
        self.frontend = frontend
        self.context = context
        self.via = via
        self.exchange: Exchange | None = None
        self.awaits = ""  # what has begun to come and must come first: TLS, a PROXY header
        self.address = ""
        self.port = 0
        self.destination: tuple[str, int] | None = None  # by a PROXY header, if one said it
        self.log_name = ""
        self.identity = b""
        self.certificate = b""  # what servers are told of it, if they are
        self.is_trusted = False
        self.deadline = _NEVER
        self.idle_timeout = _NEVER
        self.has_moved = False
        self.received_at = 0.0  # the first byte of the head that is being received
        self.is_closing = False
        self._has_served = False  # a request at least
        self._is_spared = False  # its time was up, and something unread was there
        self._is_counted = False  # among the connections of its address
        self._is_noted = False  # bytes of a head wait for the end of the turn
        self._searched = 0  # of `_held`: no end of a head starts before
        self._unsent = 0

    def __repr__(self) -> str:
        state = "closing" if self.is_closing else repr(self.exchange) if self.exchange else "idle"
        return f"<ClientConnection {self.address}:{self.port}, {state}>"

    @property
    def is_idle(self) -> bool:
        """True between two requests: nothing has come of the next one, and nothing may."""
        return self._has_served and self._is_silent

    @property
    def _is_silent(self) -> bool:
        has_begun = self.exchange is not None or self._held or self._is_noted or self.awaits
        return not (has_begun or self.is_closing)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        context = self.context
        self.transport = cast("asyncio.Transport", transport)
        self.received_at = now = context.clock()
        self.deadline = now + context.timeouts.request_head
        context.clients.add(self)
        counters = self.frontend.counters
        counters.connections += 1
        counters.connections_total += 1
        if transport.get_extra_info("peername") is None:  # reset before it was accepted
            self.is_closing = True
            self.transport.abort()
        elif self.via.bind.proxy_protocol:
            self._is_named(*self.peer())  # until it has said who its client is
        else:
            self.came_from(*self.peer())
        context.gate.client_came()

    def peer(self) -> tuple[str, int]:
        """Address and port of the other end; of a unix socket, HAProxy's `unix:1`."""
        peer: Any = self.transport.get_extra_info("peername")
        return (peer[0], peer[1]) if peer else (UNIX, self.via.number)

    def came_from(self, address: str, port: int) -> None:
        """Whose connection it is, for the log, the limits, the strategies and the servers."""
        address = self._is_named(address, port)
        self.identity = identity_fields(address, self.via.scheme)
        self.is_trusted = self.frontend.trusts(address)
        self._is_counted = not self.is_trusted and self.context.connection_counts.came(address)
        if not (self.is_trusted or self._is_counted):
            error = RequestRefused(429, "too many connections from this address", "PR")
            if self.via.tls:  # nothing can be said before the handshake, which costs too much
                self.reject(error.reason)
            else:
                self.refuse(error)

    def _is_named(self, address: str, port: int) -> str:
        """Who the log says that it is -> the plain address."""
        self.address = address = plain_address(address)
        self.port = port
        self.log_name = f"{address}:{port}"
        return address

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            self._is_noted = True
            self.context.turn.request_came(self, data)
        else:
            exchange.receive(data)
        if len(data) > NEVER_BEHIND:
            self.context.run_queue.received(self, len(data))

    @property
    def behind(self) -> int:
        exchange = self.exchange
        if exchange is None or exchange.upload is None:
            return 0
        return exchange.upload.behind

    def go_on(self) -> None:
        if self.exchange is not None:
            self.exchange.receive(b"")

    def eof_received(self) -> bool:
        """The client has left, as far as one can know (nginx does the same, with a 499)."""
        self._left()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._left()
        self.forget()

    def _left(self) -> None:
        if self._is_noted:
            self.context.turn.finish()
        if self.exchange is not None:
            self.exchange.client_left()
            self._held = bytearray()  # what was to come behind it never will
        elif (self._held or self.awaits) and not self.is_closing:
            what = self.awaits or "request head"
            left = RequestRefused(0, f"the client left within a {what}", "CR")
            record_refusal(self, self.context.clock(), left)
            self._held, self.awaits = bytearray(), ""

    def pause_writing(self) -> None:
        self.is_writing_paused = True
        self._unsent = self.transport.get_write_buffer_size()
        if self.exchange is not None:
            self.exchange.client_is_slow()

    def resume_writing(self) -> None:
        self.is_writing_paused = False
        if self.exchange is not None:
            self.exchange.client_caught_up()
        elif self._held:
            self._next_pipelined()

    # Request heads.

    def process(self, data: bytes) -> None:
        """What `data_received` put down for the end of the turn."""
        self._is_noted = False
        exchange = self.exchange
        if exchange is not None:  # what came before it has begun a request
            exchange.receive(data)
            self.context.run_queue.received(self, len(data))
        elif self.is_closing:
            self._discards_left -= len(data)
            if self._discards_left < 0:
                self.transport.abort()
        elif self.is_writing_paused:  # it reads the answers that it has before it gets more
            self.hold(data)
        elif self._held:
            self.hold(data)
            self._start_held()
        else:
            self.received_at = now = self.context.clock()
            end = data.find(_HEAD_END) + 4
            if end >= 4:
                is_all = end == len(data)
                self._start(data if is_all else data[:end], b"" if is_all else data[end:], now)
            else:
                self.deadline = now + self.context.timeouts.request_head
                self._held += data
                self._start_held()

    def _start_held(self) -> None:
        """Look for a whole head in what is held."""
        held = self._held
        end = held.find(_HEAD_END, self._searched) + 4
        if end >= 4:
            self._searched = 0
            self._start(self._take(end), None, self.context.clock())
            self._read_on_for_heads()
        elif len(held) > self.context.most_in_head:
            self.refuse(self.context.request_parser.too_large(held))
        else:
            try:
                refuse_hopeless(held, self._searched)
            except RequestRefused as error:
                self.refuse(error)
                return
            self._searched = max(0, len(held) - 3)
            self.resume_reading(FULL)

    def _start(self, data: bytes, rest: bytes | None, now: float) -> None:
        """`data` is one head. `rest` came behind it, of its body or of the next request; None: that
        is held."""
        context = self.context
        try:
            if len(data) > context.most_in_head:
                raise context.request_parser.too_large(data)
            head = context.request_parser.parse(data)
        except RequestRefused as error:
            self.refuse(error)
            return
        if self.frontend.is_stopped:  # whatever the client says, this is the last one
            head.keep_alive = False
        if rest is None:
            rest = self._take_body(head.length) if head.length else b""
        elif rest and 0 <= head.length < len(rest):
            self.hold(rest[head.length :])
            rest = rest[: head.length]
        self.frontend.counters.requests += 1
        self.exchange = exchange = Exchange(self, head, now)
        try:
            exchange.begin(head, rest, now)
        except RequestRefused as error:
            local_replies.refuse(exchange, error)
            return
        upload = exchange.upload
        if upload is not None and exchange is self.exchange:
            if self._held and not upload.is_read:
                exchange.receive(self._take(len(self._held)))
            if self.behind:
                self.context.run_queue.put_off(self)

    # Ends.

    def exchange_done(self, now: float, keep_alive: bool, is_read: bool) -> None:
        """The response has left. `is_read`: so has all of the request, and we may go on."""
        self.exchange = None
        context = self.context
        is_last = self.frontend.is_stopped  # which nobody knew yet when the response began
        if keep_alive and is_read and (context.keeps_clients or is_last):
            self.deadline = now + (_GRACE if is_last else context.timeouts.keep_alive)
            self.has_moved = False
            self._has_served = True
            self._is_spared = False
            if self._paused_by:
                self.resume_reading()
            if self._held:
                # Not from here: a thousand pipelined requests must not become a thousand frames,
                # and one of them in each loop iteration is this client's share.
                context.loop.call_soon(self._next_pipelined)
        else:
            self.close(lingering=not is_read or bool(self._held))

    def _next_pipelined(self) -> None:
        is_free = self.exchange is None and not self.is_writing_paused
        if is_free and not self.is_closing and not self.transport.is_closing():
            self.received_at = now = self.context.clock()
            self.deadline = now + self.context.timeouts.request_head
            self._start_held()

    def wind_up(self, now: float) -> None:
        """Its frontend has stopped: what runs is the last, and what is about to come.

        nginx spares those who have not asked yet as well (`ngx_close_idle_connections`).
        """
        if self.exchange is not None:
            self.exchange.head.keep_alive = False
        elif self._is_silent and (self._has_served or now - self.received_at > _FRESH):
            self.deadline = min(self.deadline, now + _GRACE)

    def refuse(self, error: RequestRefused) -> None:
        """Answer a request that was not understood; its end is unknown, so this is the last."""
        now = self.context.clock()
        answer = refusal(error, self.context.date(now))
        record_refusal(self, now, error, len(answer))
        self.context.send(self.transport, answer)
        self.close(lingering=True)

    def reject(self, reason: str, termination: str = "PR") -> None:
        """Close without a word, before the first request: there was no way to say anything."""
        self.awaits = ""
        record_refusal(self, self.context.clock(), RequestRefused(0, reason, termination))
        self.close()

    def cut(self, reason: str) -> None:
        """End at once, for what the client does to its connection whatever it asks for."""
        if self._is_noted:
            self.context.turn.finish()
        error = RequestRefused(0, reason)
        if self.exchange is not None:
            self.frontend.counters.refuse(error.status, reason)
            self.exchange.abort_client("P" + self.exchange.letter, reason)
            return
        if not self.is_closing:
            record_refusal(self, self.context.clock(), error)
        self.abort()

    def close(self, *, lingering: bool = False) -> None:
        """Close when what was written has left. `lingering`: the client may still be sending."""
        if self.is_closing:
            return
        self.is_closing = True
        self._held = bytearray()
        now = self.context.clock()
        self.has_moved = False
        if lingering and self.transport.can_write_eof():
            self.deadline = now + _LINGER
            self.start_discarding()
            self.context.turn.write_all()
            try:
                self.transport.write_eof()
            except OSError:  # asyncio's own loop, and a client that has gone while it was not read
                self.transport.abort()
        else:
            self.deadline = now + self.context.timeouts.client
            self.context.turn.close(self.transport)

    def abort(self, *, reset: bool = False) -> None:
        """End at once, in a way that the client can't take for a clean end.

        `reset`: by a TCP reset, for a response that only the end of the connection ends.
        """
        self.is_closing = True
        self.context.turn.write_all()
        if reset:
            reset_when_closed(self.transport)
        self.transport.abort()

    def forget(self) -> None:
        """The transport has gone: leave all registers."""
        self.is_closing = True
        self.deadline = _NEVER
        if self in self.context.clients:
            self.context.clients.remove(self)
            self.frontend.counters.connections -= 1
            if self._is_counted:
                self.context.connection_counts.gone(self.address)
            self.context.gate.client_gone()
            self.context.connection_gone()

    # Deadlines.

    def sweep(self, now: float) -> None:
        """Called by the sweep, a few times a second at most."""
        if self.has_moved:
            self.has_moved = False
            self.deadline = now + self.idle_timeout
        elif self.deadline <= now:
            self._expire(now)
        if self._paused_by & ~SHARE:
            self._look_for_its_end()

    def _look_for_its_end(self) -> None:
        """Ask the kernel whether the client has left: while we do not read, the loop can't tell."""
        exchange = self.exchange
        if exchange is None or self.transport.is_closing():
            return
        # A tunnel's half-close comes in its turn, behind the bytes before it.
        if has_news(self.transport, 0 if exchange.tunnel is not None else select.POLLRDHUP):
            exchange.client_left()
            self.transport.abort()

    def _expire(self, now: float) -> None:
        if self.is_writing_paused:
            unsent = self.transport.get_write_buffer_size()
            if unsent < self._unsent:  # slow, but alive
                self._unsent = unsent
                self.deadline = now + self.idle_timeout
                return
        if self.exchange is not None:
            self.exchange.expired(now)
        elif self.is_closing:
            self.transport.abort()
        elif self._held and not self.is_writing_paused:
            self.refuse(RequestRefused(408, "the request head took too long", "cR"))
        elif self.awaits:
            self.reject(f"the {self.awaits} took too long", "cR")
        elif self._has_unread() and not self._is_spared:
            self._is_spared = True  # till the next sweep: bytes that say nothing win no more
        else:
            self.close()  # an idle connection; nobody waits for anything

    def _has_unread(self) -> bool:
        """True if its next request may be here: timers come before it, however late they are."""
        return not self.transport.is_closing() and has_news(self.transport, select.POLLIN)
