"""One coarse sweep checks all deadlines: no timer per request, no clock per chunk."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import Connection
    from hermes_lb.proxy.select import Backend

logger = logging.getLogger("hermes_lb")

# Seconds. A deadline may be noticed this much late; short timeouts (in tests) get a finer sweep.
_COARSEST = 0.5
_FINEST = 0.01

# Clients checked in one loop iteration: 0.1 ms if there is nothing to do, 10 ms if all expire.
_AT_ONCE = 500


class Sweep:
    """Runs until `stop`. `backends` returns the present ones.

    A bug must cost one connection, not the deadlines of all that follow it.
    """

    def __init__(self, context: Context, backends: Callable[[], Iterable[Backend]]) -> None:
        self._context = context
        self._backends = backends
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._timer = self._context.loop.call_later(
            _interval(self._context.settings.shortest), self._run
        )

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self) -> None:
        self.start()
        now = self._context.clock()
        self._context.wall_clock.set(now)
        self._sweep_clients(self._context.live.all_held(), now)
        for backend in self._backends():
            try:
                backend.pool.tick(now)
            except Exception:
                logger.exception("while ticking %r", backend.pool)
            for connections in backend.connections.values():
                try:
                    connections.sweep(now)
                except Exception:
                    logger.exception("while sweeping %r", connections)

    def _sweep_clients(self, clients: list[Connection], now: float) -> None:
        """Some now, the rest in the next iteration: thousands may expire at once, and others wait.

        A client with progress in between has another deadline; one that has left has none.
        """
        self._context.batch.flush()
        for client in clients[:_AT_ONCE]:
            try:
                client.sweep(now)
            except Exception:
                logger.exception("while sweeping %r", client)
                client.abort()
        if rest := clients[_AT_ONCE:]:
            self._context.loop.call_soon(self._sweep_clients, rest, now)


def _interval(shortest: float) -> float:
    return min(_COARSEST, max(_FINEST, shortest / 4))
