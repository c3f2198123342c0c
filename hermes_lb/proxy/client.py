"""The side that faces the client: bytes -> request heads, one exchange at a time.

Requests that are pipelined wait here, as bytes, until the response before them has left.
"""

from __future__ import annotations

import asyncio
import select
import socket
from typing import TYPE_CHECKING, Any, cast

from hermes_lb.errors import RequestRefused
from hermes_lb.http1 import identity_fields
from hermes_lb.http1.rules import refuse_hopeless
from hermes_lb.proxy.exchange import Exchange
from hermes_lb.proxy.record import record_refusal
from hermes_lb.proxy.responses import refusal

if TYPE_CHECKING:
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.listener import Frontend

_NEVER = float("inf")
_HEAD_END = b"\r\n\r\n"

# Bytes of further requests that may wait behind the one being served.
_MOST_HELD = 64 * 1024

# After an early answer the rest of what the client sends is read and thrown away for as long as
# this (seconds) or this much: closing at once could make the kernel discard the answer
# (RFC 9112 section 9.6; nginx `lingering_time`, `lingering_timeout`).
_LINGER = 5.0
_LINGER_BYTES = 1024 * 1024


class ClientConnection(asyncio.Protocol):
    """One connection from a client.

    `deadline` is checked by the sweep; `has_moved` tells it that bytes went either way, so the
    deadline moves to `idle_timeout` from now. No timer is set and no clock is read per chunk.
    """

    __slots__ = (
        "_has_served",
        "_held",
        "_is_noted",
        "_is_reading_paused",
        "_linger_left",
        "_searched",
        "_unsent",
        "address",
        "context",
        "deadline",
        "exchange",
        "frontend",
        "has_moved",
        "identity",
        "idle_timeout",
        "is_closing",
        "is_trusted",
        "is_writing_paused",
        "log_name",
        "port",
        "received_at",
        "transport",
    )

    def __init__(self, frontend: Frontend, context: Context) -> None:
        self.frontend = frontend
        self.context = context
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.exchange: Exchange | None = None
        self.address = ""
        self.port = 0
        self.log_name = ""
        self.identity = b""
        self.is_trusted = False
        self.deadline = _NEVER
        self.idle_timeout = _NEVER
        self.has_moved = False
        self.received_at = 0.0  # the first byte of the head that is being received
        self.is_closing = False
        self.is_writing_paused = False
        self._has_served = False  # a request at least
        self._is_reading_paused = False
        self._is_noted = False  # bytes of a head wait for the end of the turn
        self._held = bytearray()  # a head that is not complete, or requests behind this one
        self._searched = 0  # of `_held`: no end of a head starts before
        self._linger_left = 0
        self._unsent = 0

    def __repr__(self) -> str:
        state = "closing" if self.is_closing else repr(self.exchange) if self.exchange else "idle"
        return f"<ClientConnection {self.address}:{self.port}, {state}>"

    @property
    def is_idle(self) -> bool:
        """True between two requests: nothing has come of the next one, and nothing may."""
        is_busy = self.exchange is not None or self._held or self._is_noted
        return self._has_served and not (is_busy or self.is_closing)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        context = self.context
        self.transport = cast("asyncio.Transport", transport)
        peer: Any = transport.get_extra_info("peername")
        if peer is not None:
            self.address, self.port = peer[0], peer[1]
        self.log_name = f"{self.address}:{self.port}"
        self.identity = identity_fields(self.address, b"http")
        self.is_trusted = self.frontend.trusts(self.address)
        self.received_at = now = context.clock()
        self.deadline = now + context.timeouts.request_head
        context.clients.add(self)
        counters = self.frontend.counters
        counters.connections += 1
        counters.connections_total += 1
        if peer is None:  # reset before it was accepted: nobody is there
            self.is_closing = True
            self.transport.abort()
        elif not (self.is_trusted or context.connection_counts.came(self.address)):
            self.refuse(RequestRefused(429, "too many connections from this address", "PR"))
        context.gate.client_came()

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            self._is_noted = True
            self.context.turn.request_came(self, data)
        else:
            exchange.receive(data)

    def eof_received(self) -> bool:
        """The client has left, as far as one can know (nginx does the same, with a 499)."""
        if self._is_noted:
            self.context.turn.finish()
        if self.exchange is not None:
            self.exchange.client_left()
        elif self._held and not self.is_closing:
            left = RequestRefused(0, "the client left within a request head", "CR")
            record_refusal(self, self.context.clock(), left)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self._is_noted:
            self.context.turn.finish()
        if self.exchange is not None:
            self.exchange.client_left()
        self.forget()

    def pause_writing(self) -> None:
        self.is_writing_paused = True
        self._unsent = self.transport.get_write_buffer_size()
        if self.exchange is not None:
            self.exchange.client_is_slow()

    def resume_writing(self) -> None:
        self.is_writing_paused = False
        if self.exchange is not None:
            self.exchange.client_caught_up()

    # Request heads.

    def process(self, data: bytes) -> None:
        """What `data_received` put down for the end of the turn."""
        self._is_noted = False
        exchange = self.exchange
        if exchange is not None:  # what came before it has begun a request
            exchange.receive(data)
        elif self.is_closing:
            self._linger_left -= len(data)
            if self._linger_left < 0:
                self.transport.abort()
        elif self._held:
            self._held += data
            self._start_held()
        else:
            self.received_at = now = self.context.clock()
            end = data.find(_HEAD_END) + 4
            if end >= 4:
                self._start(data, end, now)
            else:
                self.deadline = now + self.context.timeouts.request_head
                self._held += data
                self._start_held()

    def _start_held(self) -> None:
        """Look for a whole head in what is held."""
        held = self._held
        end = held.find(_HEAD_END, self._searched) + 4
        if end >= 4:
            whole = bytes(held)
            self._held = bytearray()
            self._searched = 0
            self._start(whole, end, self.context.clock())
        elif len(held) > self.context.most_in_head:
            self.refuse(RequestRefused(431, "the request head is too large"))
        else:
            try:
                refuse_hopeless(held, self._searched)
            except RequestRefused as error:
                self.refuse(error)
                return
            self._searched = max(0, len(held) - 3)

    def _start(self, data: bytes, end: int, now: float) -> None:
        """`data[:end]` is one head."""
        context = self.context
        if end == len(data):
            head_bytes, rest = data, b""
        else:
            head_bytes, rest = data[:end], data[end:]
        try:
            if end > context.most_in_head:
                raise RequestRefused(431, "the request head is too large")
            head = context.request_parser.parse(head_bytes)
        except RequestRefused as error:
            self.refuse(error)
            return
        self.frontend.counters.requests += 1
        self.exchange = exchange = Exchange(self, head, now)
        exchange.begin(head, rest, now)

    def hold(self, data: bytes) -> None:
        """Bytes behind the request that is being served."""
        self._held += data
        if len(self._held) > _MOST_HELD:
            self.pause_reading()

    def start_discarding(self) -> None:
        """What else the client sends of its request is read and thrown away, within bounds."""
        self._linger_left = _LINGER_BYTES
        self.resume_reading()

    def discard(self, data: bytes) -> None:
        self._linger_left -= len(data)
        if self._linger_left < 0:
            self.pause_reading()

    def take_held(self) -> bytes:
        """What the client sent behind its request, for a tunnel."""
        held, self._held = bytes(self._held), bytearray()
        return held

    def pause_reading(self) -> None:
        if not self._is_reading_paused and not self.transport.is_closing():
            self._is_reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._is_reading_paused and not self.transport.is_closing():
            self._is_reading_paused = False
            self.transport.resume_reading()

    # Ends.

    def exchange_done(self, now: float, keep_alive: bool, is_read: bool) -> None:
        """The response has left. `is_read`: so has all of the request, and we may go on."""
        self.exchange = None
        if keep_alive and is_read and self.context.keeps_clients:
            self.deadline = now + self.context.timeouts.keep_alive
            self.has_moved = False
            self._has_served = True
            if self._is_reading_paused:
                self.resume_reading()
            if self._held:
                # Not from here: a thousand pipelined requests must not become a thousand frames.
                self.context.loop.call_soon(self._next_pipelined)
        else:
            self.close(lingering=not is_read or bool(self._held))

    def _next_pipelined(self) -> None:
        if self.exchange is None and not self.is_closing and not self.transport.is_closing():
            self.received_at = now = self.context.clock()
            self.deadline = now + self.context.timeouts.request_head
            self._start_held()

    def refuse(self, error: RequestRefused) -> None:
        """Answer a request that was not understood; its end is unknown, so this is the last."""
        now = self.context.clock()
        answer = refusal(error)
        record_refusal(self, now, error, len(answer))
        self.context.send(self.transport, answer)
        self.close(lingering=True)

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
            self._linger_left = _LINGER_BYTES
            self.resume_reading()
            self.context.turn.write_all()
            self.transport.write_eof()
        else:
            self.deadline = now + self.context.timeouts.client
            self.context.turn.close(self.transport)

    def abort(self, *, reset: bool = False) -> None:
        """End at once, in a way that the client can't take for a clean end.

        `reset`: by a TCP reset, for a response that only the end of the connection ends.
        """
        self.is_closing = True
        self.context.turn.write_all()
        sock = self.transport.get_extra_info("socket")
        if reset and sock is not None:
            linger = (1).to_bytes(4, "little") + bytes(4)  # struct linger: on, 0 s
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    def forget(self) -> None:
        """The transport has gone: leave all registers."""
        self.is_closing = True
        self.deadline = _NEVER
        if self in self.context.clients:
            self.context.clients.remove(self)
            self.frontend.counters.connections -= 1
            if self.address and not self.is_trusted:
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
        if self._is_reading_paused:
            self._look_for_its_end()

    def _look_for_its_end(self) -> None:
        """Ask the kernel whether the client has left: while we do not read, the loop can't tell."""
        exchange = self.exchange
        if exchange is None or self.transport.is_closing():
            return
        poll = select.poll()
        sock = self.transport.get_extra_info("socket")
        # A tunnel's half-close comes in its turn, behind the bytes before it.
        poll.register(sock.fileno(), 0 if exchange.tunnel is not None else select.POLLRDHUP)
        if poll.poll(0):
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
        elif self._held:
            self.refuse(RequestRefused(408, "the request head took too long", "cR"))
        else:
            self.close()  # an idle connection; nobody waits for anything
