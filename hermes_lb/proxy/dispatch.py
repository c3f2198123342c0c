"""Affinity, then strategy: which server takes a request, or must it wait?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.affinity import CookieAffinity
from hermes_lb.balancing import STRATEGIES
from hermes_lb.errors import NoServer
from hermes_lb.pool import Pool
from hermes_lb.proxy.connections import ServerConnections

if TYPE_CHECKING:
    from hermes_lb import config
    from hermes_lb.pool import Server
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.exchange import Exchange


class Backend:
    """A pool of servers with what picks among them and the connections to them."""

    def __init__(self, name: str, configured: config.Backend, context: Context) -> None:
        self.name = name
        self.host = name.encode()  # for the Host field of HTTP/1.0 requests without one
        self.retries = configured.retries
        self.pool = Pool(name, configured)
        self.strategy = STRATEGIES[configured.balance]()
        self.affinity = (
            CookieAffinity(configured.affinity, self.pool.servers) if configured.affinity else None
        )
        self.connections = {
            server: ServerConnections(
                server,
                context,
                keep=configured.keep_alive,
                idle_timeout=configured.keep_alive_timeout,
            )
            for server in self.pool.servers
        }
        self.log_names = {server: f"{name}/{server.name}" for server in self.pool.servers}
        self._rng = context.rng

    def choose(self, exchange: Exchange, now: float) -> Server | None:
        """The server that shall take the request; None: it has to wait in the queue.

        Raises NoServer if nobody can take it, now or soon.
        """
        pool = self.pool
        pinned = exchange.pinned_to
        if pinned is None or not pinned.may_serve(now):
            exchange.pinned_to = None
            server = self.strategy.pick(pool, exchange, now, self._rng)
            if server is not None:
                return server
            if not pool.can_wait(exchange.tried, now):
                raise NoServer(f"no server of {self.name} is available")
            exchange.queue_position = len(pool.waiting)
            return None
        if not pinned.is_full:
            return pinned
        exchange.queue_position = pinned.queued
        return None
