"""Clients that ask at a fixed rate, however fast they are answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.live.loads.fleet import Fleet, FleetClient
from bench.live.messages import TOKEN_MARK

if TYPE_CHECKING:
    from bench.live.pacing import Pacer


class PacedClient(FleetClient):
    """Sends `message` whenever its turn comes and the answer to the one before has arrived.

    `opening` is sent once, before the first, and its answer's head opens with `head`. An answer is
    whatever has the mark.
    """

    def __init__(
        self, fleet: Fleet, pacer: Pacer, opening: bytes, head: bytes, message: bytes
    ) -> None:
        super().__init__(fleet, opening, head, TOKEN_MARK)
        self._pacer = pacer
        self._message = message
        self._is_waiting = False

    def answered(self) -> None:
        self._pacer.add(self._send)

    def counted(self) -> None:
        self._is_waiting = False

    def _send(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            self.transport.write(self._message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pacer.discard(self._send)
        super().connection_lost(exc)
