"""What the connections on both sides of an exchange have in common: they can be held back."""

from __future__ import annotations

import asyncio
from typing import cast


class Endpoint(asyncio.Protocol):
    """A connection that is not read from while nobody can take what it would bring.

    `is_writing_paused`: its own write buffer is above the high-water mark.
    """

    __slots__ = ("_is_reading_paused", "is_writing_paused", "transport")

    def __init__(self) -> None:
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.is_writing_paused = False
        self._is_reading_paused = False

    def pause_reading(self) -> None:
        if not self._is_reading_paused and not self.transport.is_closing():
            self._is_reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._is_reading_paused and not self.transport.is_closing():
            self._is_reading_paused = False
            self.transport.resume_reading()
