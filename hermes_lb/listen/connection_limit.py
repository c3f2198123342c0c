"""How many clients are let in: HAProxy's `maxconn`.

At the limit the listeners are not accepted from, and further clients wait in the kernel's backlog.
"""

from __future__ import annotations

from heapq import nsmallest
from operator import attrgetter
from typing import TYPE_CHECKING

from hermes_lb.proxy.ports import AcceptLimit

if TYPE_CHECKING:
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import Entrance

# Of the limit: so many idle connections are closed at once to make room, and so many must have
# gone before the listeners open again. Opening them for a single client would cost more than it.
_ROOM = 1 / 20


class ConnectionLimit(AcceptLimit):
    """Stands before all frontends of a balancer.

    A loop turn may bring a few connections more than the limit (`listener._ACCEPTS_PER_TURN`).
    """

    def __init__(self, most: int, context: Context) -> None:
        self.frontends: list[Entrance] = []
        self._is_open = True
        self._context = context
        self._set_most(most)

    def guard(self, frontend: Entrance) -> None:
        """Stand before one more, which is about to accept: without room, it begins paused."""
        self.frontends.append(frontend)
        if not self._is_open:
            frontend.pause()

    def forget(self, frontend: Entrance) -> None:
        self.frontends.remove(frontend)

    def _set_most(self, most: int) -> None:
        self._most = most
        self._room = max(1, int(most * _ROOM))

    def reconfigure(self, most: int) -> None:
        """Another limit from now on. Nobody is put out for it."""
        self._set_most(most)
        self.release()  # there may be room now

    def acquire(self) -> None:
        """Called for each connection, once it is in `context.clients`."""
        clients = self._context.clients
        if len(clients) >= self._most and self._is_open:
            self._is_open = self._context.keeps_clients = False
            for frontend in self.frontends:
                frontend.pause()
            # As nginx does: who asks for nothing makes room for who wants to, and nobody is kept
            # behind a response until there is room. The longest idle ones have the first deadline.
            idle = [client for client in clients if client.is_idle]
            for client in nsmallest(self._room, idle, key=attrgetter("deadline")):
                client.close()

    def release(self) -> None:
        """Called for each connection, once it has left `context.clients`."""
        if not self._is_open and len(self._context.clients) <= self._most - self._room:
            self._is_open = True
            self._context.keeps_clients = not self._context.is_draining
            for frontend in self.frontends:
                frontend.resume()
