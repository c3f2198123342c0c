"""One loop iteration, stage by stage: requests, responses, writes, records.

Events are queued and processed by kind at the end of the loop iteration. Nothing waits longer than
the iteration in which it arrived, and two things get much cheaper:

- A stage runs the same code for all its items while that code is in the processor's cache. Event
  by event, each of 40 functions would be fetched again for each of them.
- Writes that leave together wake the peer's process once. Each on its own wakes it again, and the
  kernel spends more on that than on the bytes.

docs/architecture.md has the measurements. Streams' chunks skip the first two stages.
"""

from __future__ import annotations

import logging
import select
from typing import TYPE_CHECKING, Any, TypeAlias

from hermes_lb.transport.kernel import INPUT, write_last

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from hermes_lb.proxy.ports import Framed, Kept, ResponseSink, Source

    #: Called with an exchange that has ended, the time and the termination.
    Record: TypeAlias = Callable[[Any, float, str], None]

logger = logging.getLogger("hermes_lb")

# Bytes. More than this is a bulk transfer, which gains nothing, and whose back-pressure must be
# felt before the next read: libuv reads up to 32 times 256 KiB from one connection at a time.
_BULK = 16 * 1024


class IoBatch:
    """The queued events of one balancer in this loop iteration.

    All writes go through `send`, so each connection's bytes keep their order. Before anything else
    is done to a transport, call `write_all`; before anything else that the loop reports is acted
    upon (an end, a deadline), call `flush`: the bytes came first.

    `reused`: by descriptor, the kept connections whose request has not been written yet.
    """

    __slots__ = (
        "before_requests",
        "_ended",
        "_framed",
        "_is_open",
        "_last",
        "_loop",
        "_poll",
        "_record",
        "_requests",
        "_responses",
        "reused",
        "writes",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, record: Record) -> None:
        self._loop = loop
        self._record = record
        self._is_open = False  # `flush` has been scheduled, or runs
        # Reads the state of other processes before a server is picked.
        self.before_requests: Callable[[], None] | None = None
        self._requests: list[tuple[Source, bytes]] = []
        self._responses: list[tuple[Source, bytes]] = []
        self._framed: list[Framed] = []  # connections whose frames wait
        self.writes: list[tuple[asyncio.Transport, bytes | None]] = []
        self._last: dict[asyncio.Transport, bytes] = {}  # what is written just before a close
        self.reused: dict[int, Kept] = {}
        self._poll = select.poll()  # of those
        self._ended: list[tuple[Any, float, str]] = []

    def request_came(self, client: Source, data: bytes) -> None:
        """Bytes of a request head."""
        if not self._is_open:
            self._open()
        self._requests.append((client, data))

    def response_came(self, upstream: Source, data: bytes) -> None:
        """Bytes of a response head."""
        if not self._is_open:
            self._open()
        self._responses.append((upstream, data))

    def send(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write `data`. A transport that has been closed in the meantime drops it."""
        if not self._is_open:
            self._open()
        self.writes.append((transport, data))
        if len(data) > _BULK:
            self.write_all()

    def reuse(self, kept: Kept, descriptor: int, request: bytes) -> None:
        """Write `request`, unless its connection has ended, or has input: `kept.refuse` is called.

        A response to this request can't have come before it, so input belongs to no request.
        """
        self._poll.register(descriptor, INPUT)
        self.reused[descriptor] = kept
        self.send(kept.transport, request)

    def relay(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write a chunk of a stream: at once, unless another write is queued before it.

        Tokens arrive one by one, not in bursts; batching them would cost more than it saves.
        """
        if self.writes:
            self.send(transport, data)
        elif not transport.is_closing():
            transport.write(data)

    def close(self, transport: asyncio.Transport) -> None:
        """Close `transport` after the queued bytes."""
        if not self._is_open:
            self._open()
        writes = self.writes
        if writes and writes[-1][0] is transport and writes[-1][1]:
            self._last[transport] = writes.pop()[1] or b""
        writes.append((transport, None))

    def frames_wait(self, connection: Framed) -> None:
        """Call its `write_frames` before the next write, so that those of many streams leave
        together."""
        if not self._is_open:
            self._open()
        self._framed.append(connection)

    def exchange_ended(self, exchange: ResponseSink, now: float, termination: str) -> None:
        """Record it, once its last bytes have left."""
        if not self._is_open:
            self._open()
        self._ended.append((exchange, now, termination))

    def pending(self, transport: asyncio.Transport) -> int:
        """Bytes that were sent to `transport` and have not been written yet."""
        queued = sum(len(data or b"") for held, data in self.writes if held is transport)
        return queued + len(self._last.get(transport, b""))

    def write_all(self) -> None:
        """Write the queued bytes now."""
        if self._framed:
            self._write_frames()
        writes = self.writes
        if writes:
            if self.reused:
                self._refuse_ended()
            self.writes = []
            for transport, data in writes:
                try:
                    if data is None:
                        self._close(transport)
                    elif not transport.is_closing():
                        transport.write(data)
                except Exception:
                    self._give_up(transport, transport)

    def _write_frames(self) -> None:
        framed, self._framed = self._framed, []
        for connection in framed:
            try:
                connection.write_frames()
            except Exception:
                self._give_up(connection, connection.transport)

    def _close(self, transport: asyncio.Transport) -> None:
        last = self._last.pop(transport, None)
        if last is None:
            transport.close()
        else:
            write_last(transport, last)

    def _refuse_ended(self) -> None:
        """One `poll` for all kept connections that are about to be written to.

        Nothing but the writes comes after it. What a closed transport has left here does no harm:
        its descriptor is another's at worst, whose input refuses a connection that is over.
        """
        reused, self.reused = self.reused, {}
        poll, self._poll = self._poll, select.poll()
        for descriptor, _ in poll.poll(0):
            reused[descriptor].refuse()

    def flush(self) -> None:
        """Process all events of this loop iteration."""
        self._is_open = True  # what a stage adds is for those after it
        if self._requests:
            requests, self._requests = self._requests, []
            if self.before_requests is not None:
                self.before_requests()
            for client, data in requests:
                try:
                    client.process(data)
                except Exception:
                    self._give_up(client, client.transport)
        if self._responses:
            responses, self._responses = self._responses, []
            for upstream, data in responses:
                try:
                    upstream.process(data)
                except Exception:
                    self._give_up(upstream, upstream.transport)
        self.write_all()
        if self._ended:
            ended, self._ended = self._ended, []
            for exchange, now, termination in ended:
                try:
                    self._record(exchange, now, termination)
                except Exception:
                    logger.exception("while recording %r", exchange)
        self._is_open = False
        if self._requests or self._responses or self._framed or self.writes or self._ended:
            self._open()  # too late for its own

    def _give_up(self, what: object, transport: asyncio.Transport) -> None:
        """A bug must cost one connection, not all that share the iteration."""
        logger.exception("while serving %r", what)
        transport.abort()

    def _open(self) -> None:
        self._is_open = True
        self._loop.call_soon(self.flush)
