"""Affinity, then strategy: which server takes a request, or must it wait?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.affinity import CookieAffinity, StickRules
from hermes_lb.balancing import STRATEGIES, ConsistentHash, Learner, LeastLoad
from hermes_lb.errors import NoServer
from hermes_lb.pool import Pool
from hermes_lb.proxy.connections import ServerConnections
from hermes_lb.proxy.pin_table import PinTable

if TYPE_CHECKING:
    from hermes_lb import config
    from hermes_lb.affinity import Stuck
    from hermes_lb.http1 import ResponseHead
    from hermes_lb.pool import Server
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.exchange import Exchange
    from hermes_lb.proxy.relay import Relay


class Backend:
    """A pool of servers with what picks among them and the connections to them."""

    def __init__(self, name: str, configured: config.Backend, context: Context) -> None:
        self.name = name
        self.host = name.encode()  # for the Host field of HTTP/1.0 requests without one
        self.retries = configured.retries
        self.pool = Pool(name, configured, rng=context.rng)
        self.outliers = self.pool.outliers
        self.strategy = STRATEGIES[configured.balance](configured.strategy)
        self.learner = self.strategy if isinstance(self.strategy, Learner) else None
        self.affinity = (
            CookieAffinity(configured.affinity, self.pool.servers) if configured.affinity else None
        )
        self.sticks = StickRules(configured.stick) if configured.stick else None
        self.pins = PinTable(name, configured.pins, context)
        # Where keys live that nobody has to learn: the same on every balancer.
        self._ring = ConsistentHash(load_factor=0.0)
        self._by_name = {server.name: server for server in self.pool.servers}
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

    def load_reported(self, server: Server, load: float, now: float) -> None:
        """A server, of this backend or another, says how much it has to do."""
        if isinstance(self.strategy, LeastLoad) and server in self.connections:
            self.strategy.reported(server, load, now)

    def stick(self, exchange: Exchange, now: float) -> bool:
        """Pin the exchange by its key, if it has one. False: ask `find_shared` first."""
        assert self.sticks is not None
        stuck = self.sticks.find(exchange.request_head, exchange.client_address)
        if stuck is None:
            return True
        exchange.stuck = stuck
        if not stuck.rule.learns:
            is_strict = stuck.rule.is_strict
            exchange.pinned_to = self._ring.owner(self.pool, stuck.key, now, is_strict=is_strict)
            return True
        name = self.pins.find(stuck.key, now)
        exchange.pinned_to = self._by_name.get(name) if name is not None else None
        return name is not None or not self.pins.is_shared

    async def find_shared(self, stuck: Stuck) -> Server | None:
        """The server that another balancer knows of."""
        name = await self.pins.look_up(stuck.key)
        return self._by_name.get(name) if name is not None else None

    def learn(self, exchange: Relay, server: Server, head: ResponseHead, now: float) -> None:
        """A response tells whose session it is."""
        assert self.sticks is not None
        for key in self.sticks.learnt(exchange.stuck, head):
            self.pins.pin(key, server.name, now)

    def choose(self, exchange: Exchange, now: float) -> Server | None:
        """The server that shall take the request; None: it has to wait in the queue.

        Raises NoServer if nobody can take it, now or soon.
        """
        pool = self.pool
        pinned = exchange.pinned_to
        if pinned is None or not pinned.may_serve(now):
            if pinned is not None and exchange.is_strict:
                raise NoServer(f"{pinned.name}, which has the session, is not available")
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
