"""What a client sends while nobody takes it: kept for later, thrown away, or left in the kernel."""

from __future__ import annotations

from hermes_lb.proxy.endpoint import Endpoint

# Bytes of further requests that may wait behind the one being served.
_MOST_HELD = 64 * 1024
# Bytes of a request that has been answered before its end; the rest is not read.
_MOST_DISCARDED = 1024 * 1024


class Intake(Endpoint):
    """A client's connection, and what has come of it that is no part of the present request."""

    __slots__ = ("_discards_left", "_held")

    def __init__(self) -> None:
        super().__init__()
        self._held = bytearray()  # a head that is not complete, or requests behind this one
        self._discards_left = 0

    def hold(self, data: bytes) -> None:
        """Bytes behind the request that is being served."""
        self._held += data
        if len(self._held) > _MOST_HELD:
            self.pause_reading()

    def take_held(self) -> bytes:
        """What the client sent behind its request, for a tunnel."""
        held, self._held = bytes(self._held), bytearray()
        return held

    def start_discarding(self) -> None:
        """What else the client sends of its request is read and thrown away, within bounds."""
        self._discards_left = _MOST_DISCARDED
        self.resume_reading()

    def discard(self, data: bytes) -> None:
        self._discards_left -= len(data)
        if self._discards_left < 0:
            self.pause_reading()
