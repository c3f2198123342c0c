"""The limit on client connections: HAProxy's `maxconn`.

At the limit the listeners stop accepting, and further clients wait in the kernel's backlog.
"""

from __future__ import annotations

from heapq import nsmallest
from operator import attrgetter
from typing import TYPE_CHECKING

from hermes_lb.proxy.ports import AcceptLimit

if TYPE_CHECKING:
    from hermes_lb.proxy.live import LiveConnections
    from hermes_lb.proxy.ports import Entrance

# Share of the limit: the number of idle connections that are closed at once to make room, and the
# number that must have ended before the listeners open again. Opening them costs more than one
# client.
_ROOM = 1 / 20


class ConnectionLimit(AcceptLimit):
    """Shared by all frontends of a balancer.

    A loop iteration may bring a few more connections than that (`listener._ACCEPTS_PER_TURN`).
    """

    def __init__(self, most: int, live: LiveConnections) -> None:
        self.frontends: list[Entrance] = []
        self._is_open = True
        self._live = live
        self._set_most(most)

    def guard(self, frontend: Entrance) -> None:
        """Add a frontend that is about to accept; if there is no room, it begins paused."""
        self.frontends.append(frontend)
        if not self._is_open:
            frontend.pause()

    def forget(self, frontend: Entrance) -> None:
        self.frontends.remove(frontend)

    def _set_most(self, most: int) -> None:
        self._most = most
        self._room = max(1, int(most * _ROOM))

    def reconfigure(self, most: int) -> None:
        """Change the limit; existing connections are kept."""
        self._set_most(most)
        self.release()  # there may be room now

    def acquire(self) -> None:
        """Called for each connection, once it is in `live.clients`."""
        clients = self._live.clients
        if len(clients) >= self._most and self._is_open:
            self._is_open = self._live.keeps_clients = False
            for frontend in self.frontends:
                frontend.pause()
            # As nginx does: idle connections make room for new clients; connections are kept alive
            # again when there is room. The longest idle ones have the first deadline.
            idle = [client for client in clients if client.is_idle]
            for client in nsmallest(self._room, idle, key=attrgetter("deadline")):
                client.close()

    def release(self) -> None:
        """Called for each connection, once it has left `live.clients`."""
        if not self._is_open and len(self._live.clients) <= self._most - self._room:
            self._is_open = True
            self._live.keeps_clients = not self._live.is_draining
            for frontend in self.frontends:
                frontend.resume()
