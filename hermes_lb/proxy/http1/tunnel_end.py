"""One side of a tunnel on a connection of its own: raw bytes, without HTTP.

The transport gets a new protocol, so a frame costs one callback and one write, and the HTTP
protocols need no branch for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hermes_lb.proxy.ports import TunnelEnd
from hermes_lb.transport.run_queue import LARGE_READ

if TYPE_CHECKING:
    import asyncio

    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.http1.client import ClientConnection
    from hermes_lb.proxy.http1.upstream import UpstreamConnection
    from hermes_lb.proxy.ports import TunnelSink


class _RawEnd(TunnelEnd):
    """What both sides have in common."""

    __deletable__ = ("_other", "_traffic", "_tunnel")  # asked for by mypyc

    def __init__(
        self, tunnel: TunnelSink, side: ClientConnection | UpstreamConnection, context: Context
    ) -> None:
        self._tunnel = tunnel
        self._traffic = tunnel.traffic
        self._side = side
        self._transport = side.transport
        self._context = context
        self._batch = context.batch
        self._run_queue = context.run_queue
        self._other: TunnelEnd  # from `start` until the end
        self.has_ended = False

    # What the event loop calls.

    def data_received(self, data: bytes) -> None:
        raise NotImplementedError

    def _pass_on(self, data: bytes) -> None:
        self._traffic.saw_traffic = True
        self._other.write(data)
        if len(data) >= LARGE_READ:
            self._run_queue.put_off(self._side)

    def eof_received(self) -> bool:
        self.has_ended = True
        return self._tunnel.half_closed(self, self._other)

    def pause_writing(self) -> None:
        self._side.is_writing_paused = True
        self._other.pause_reading()

    def resume_writing(self) -> None:
        self._side.is_writing_paused = False
        self._other.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._tunnel.lost(self, error)
        self._forget(error)
        del self._tunnel, self._traffic, self._other  # each refers to the others

    def _forget(self, error: Exception | None) -> None:
        raise NotImplementedError

    # What the tunnel and the other end call.

    def start(self, other: TunnelEnd, first: bytes) -> None:
        self._other = other
        self._transport.set_protocol(cast("asyncio.Protocol", self))
        self._side.resume_reading()
        if self._side.is_writing_paused:
            other.pause_reading()
        if first:
            self.data_received(first)

    def write(self, data: bytes) -> None:
        self._batch.relay(self._transport, data)

    def can_half_close(self) -> bool:
        return self._transport.can_write_eof()

    def write_eof(self) -> None:
        self._batch.write_all()
        if not self._transport.is_closing():
            self._transport.write_eof()

    def pause_reading(self) -> None:
        self._side.pause_reading()

    def resume_reading(self) -> None:
        self._side.resume_reading()


class ClientEnd(_RawEnd):
    """The client's side; `start` passes on the bytes that the client has sent after its request."""

    def __init__(self, tunnel: TunnelSink, side: ClientConnection, context: Context) -> None:
        super().__init__(tunnel, side, context)
        self._client = side

    def start(self, other: TunnelEnd, first: bytes) -> None:
        super().start(other, self._client.take_held())

    def data_received(self, data: bytes) -> None:
        self._traffic.bytes_in += len(data)
        self._pass_on(data)

    def close(self, patience: float) -> None:
        """The connection waits for the client as for any other."""
        self._client.exchange = None
        self._client.close()

    def _forget(self, error: Exception | None) -> None:
        self._client.forget()


class ServerEnd(_RawEnd):
    """The server's side."""

    def __init__(self, tunnel: TunnelSink, side: UpstreamConnection, context: Context) -> None:
        super().__init__(tunnel, side, context)
        self._upstream = side
        self._patience: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self._traffic.bytes_out += len(data)
        self._pass_on(data)

    def close(self, patience: float) -> None:
        self._upstream.sink = None
        self._batch.close(self._transport)
        self._patience = self._context.loop.call_later(patience, self._transport.abort)

    def _forget(self, error: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._upstream.connection_lost(error)
