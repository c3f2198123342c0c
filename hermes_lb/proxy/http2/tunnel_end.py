"""The client's side of a tunnel on a stream: a WebSocket by RFC 8441."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mypy_extensions import trait

from hermes_lb.proxy.ports import TunnelEnd

if TYPE_CHECKING:
    from hermes_lb.proxy.ports import TunnelSink


@trait
class TunnelStream:
    """A stream, as far as its end of a tunnel needs it."""

    __slots__ = ()

    is_writing_paused: bool

    def send(self, data: bytes) -> None:
        """Bytes of the server."""
        raise NotImplementedError

    def end_tunnel(self) -> None:
        """The server sends no more."""
        raise NotImplementedError

    def close_tunnel(self) -> None:
        """The tunnel is over."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """The server can take no more."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        raise NotImplementedError


class StreamEnd(TunnelEnd):
    """A half-close is END_STREAM, in either direction."""

    __slots__ = ("_early", "_other", "_stream", "_tunnel", "has_ended")

    def __init__(
        self, tunnel: TunnelSink, stream: TunnelStream, early: list[tuple[bytes, bool]]
    ) -> None:
        """`early`: what the client sent before the 101: bytes, and whether they are the last."""
        self._tunnel: TunnelSink | None = tunnel
        self._stream = stream
        self._other: TunnelEnd | None = None
        self._early = early
        self.has_ended = False

    # What the stream calls.

    def data_came(self, data: bytes, *, ended: bool) -> None:
        tunnel, other = self._tunnel, self._other
        if tunnel is None or other is None:
            return
        traffic = tunnel.traffic
        traffic.saw_traffic = True
        traffic.bytes_in += len(data)
        if data:
            other.write(data)
        if ended:
            self.has_ended = True
            tunnel.half_closed(self, other)

    def lost(self, error: Exception | None) -> None:
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.lost(self, error)
        self._other = None

    def is_slow(self) -> None:
        if self._other is not None:
            self._other.pause_reading()

    def caught_up(self) -> None:
        if self._other is not None:
            self._other.resume_reading()

    # What the tunnel and the other end call.

    def start(self, other: TunnelEnd, first: bytes) -> None:
        self._other = other
        self._stream.resume_reading()
        if self._stream.is_writing_paused:
            other.pause_reading()
        early, self._early = self._early, []
        for data, ended in early:
            self.data_came(data, ended=ended)

    def write(self, data: bytes) -> None:
        self._stream.send(data)

    def can_half_close(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._stream.end_tunnel()

    def pause_reading(self) -> None:
        self._stream.pause_reading()

    def resume_reading(self) -> None:
        self._stream.resume_reading()

    def close(self, patience: float) -> None:
        self._tunnel = self._other = None
        self._stream.close_tunnel()
