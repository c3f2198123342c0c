"""Back-pressure of the connections on both sides of an exchange.

Reading may be paused for several reasons at once, and each is ended by its owner alone:

    PEER     the receiver can't take more: its write buffer is full, or it does not exist yet
    FULL     the buffer for later requests is full (`intake`)
    SHARE    the connection has had its share of this loop iteration (`run_queue`)
    VERDICT  a response head waits for a decision that takes time (`upstream`)
    UNREAD   it does not read the TLS answers that it has caused (`tls`)

A connection is read from while there is no reason, so none of them ends another one's pause.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    import asyncio

PEER: Final = 1
FULL: Final = 2
SHARE: Final = 4
VERDICT: Final = 8
UNREAD: Final = 16


def pause(transport: asyncio.Transport, reasons: int, reason: int) -> int:
    """Another `reason` beside those that there are -> all of them."""
    if not reasons and not transport.is_closing():
        transport.pause_reading()
    return reasons | reason


def resume(transport: asyncio.Transport, reasons: int, ended: int) -> int:
    """These have `ended`, if they were among the reasons -> those that are left."""
    left = reasons & ~ended
    if reasons and not left and not transport.is_closing():
        transport.resume_reading()
    return left


class Endpoint:
    """One side of an exchange: an `asyncio.Protocol` by its methods, not by its base.

    A compiled class can't have an interpreted base.

    `is_writing_paused`: its own write buffer is above the high-water mark.
    """

    __slots__ = ("_paused_by", "is_writing_paused", "transport")

    def __init__(self) -> None:
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.is_writing_paused = False
        self._paused_by = 0  # the reasons

    @property
    def has_had_its_share(self) -> bool:
        return bool(self._paused_by & SHARE)

    def pause_reading(self) -> None:
        self.pause_for(PEER)

    def resume_reading(self) -> None:
        self.resume_from(PEER)

    def pause_for(self, reason: int) -> None:
        self._paused_by = pause(self.transport, self._paused_by, reason)

    def resume_from(self, reasons: int) -> None:
        self._paused_by = resume(self.transport, self._paused_by, reasons)
