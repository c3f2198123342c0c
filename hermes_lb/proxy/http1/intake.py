"""Bytes of a client that no exchange reads yet: kept, discarded, or left in the kernel."""

from __future__ import annotations

from hermes_lb.http.body import LAST_CHUNK
from hermes_lb.transport.endpoint import FULL, PEER, Endpoint

# Bytes of further requests that may wait for the one being served. Beyond it the client is not
# read from, so at most one read more is held (256 KiB; the same of TLS).
_MOST_HELD = 64 * 1024
# Reading begins again where so much is left, and not with each request that is taken.
_LOW_WATER = _MOST_HELD // 2
# Bytes of a request that has been answered before its end; the rest is not read. Most clients read
# the answer only behind the last byte of their upload, so this is more than most uploads have
# (images and documents of a prompt); nginx has no bound in bytes, only `lingering_time`.
_MOST_DISCARDED = 16 * 1024 * 1024
# Shared by all connections of which nothing is held: most of them, most of the time. The view on it
# makes any attempt to grow it a BufferError.
_NOTHING = bytearray()
_VIEW = memoryview(_NOTHING)


class Intake(Endpoint):
    """A client's connection, and the received bytes that are not part of the present request.

    `_held` is taken from its front; CPython does that without moving the rest.
    """

    __slots__ = ("_discards_left", "_held", "_refuses")

    def __init__(self) -> None:
        super().__init__()
        self._held = _NOTHING  # a head that is not complete, or requests behind this one
        self._refuses = False  # bytes of a request that has been answered before its end
        self._discards_left = 0

    def unread(self, data: bytes) -> None:
        """Bytes after the request that is being served."""
        self._hold(data)
        if len(self._held) > _MOST_HELD:
            self.pause_for(FULL)

    def unread_first(self, data: bytes) -> None:
        """Bytes that were taken as part of the body, but follow its end."""
        if self._held:
            self._held[:0] = data
        else:
            self._hold(data)
        if len(self._held) > _MOST_HELD:
            self.pause_for(FULL)

    def _hold(self, data: bytes) -> None:
        if self._held:
            self._held += data
        else:
            self._held = bytearray(data)

    def _drop_held(self) -> None:
        self._held = _NOTHING

    def _take(self, size: int) -> bytes:
        """The first `size` held bytes, or all."""
        held = self._held
        if size >= len(held):
            self._held = _NOTHING
            return bytes(held)
        taken = bytes(memoryview(held)[:size])
        del held[:size]
        return taken

    def _take_body(self, length: int) -> bytes:
        """The held bytes of a body of this length; of a chunked one all up to its possible end."""
        if length >= 0:
            return self._take(length)
        end = self._held.find(LAST_CHUNK)
        return self._take(end + len(LAST_CHUNK) if end >= 0 else len(self._held))

    def _read_on_for_heads(self) -> None:
        """A request has been taken from the held bytes."""
        if len(self._held) <= _LOW_WATER:
            self.resume_from(FULL)

    def take_held(self) -> bytes:
        """The bytes that the client sent after its request, for a tunnel."""
        held = self._take(len(self._held))
        self.resume_from(FULL)
        return held

    def refuse_rest(self) -> None:
        """What else the client sends of its request is read and thrown away, within bounds."""
        self._refuses = True
        self._discards_left = _MOST_DISCARDED
        self.resume_from(PEER | FULL)

    def discard(self, data: bytes) -> None:
        self._discards_left -= len(data)
        if self._discards_left < 0:
            self.pause_for(FULL)
