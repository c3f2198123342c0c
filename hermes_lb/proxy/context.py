"""What all connections of one balancer share. Nothing is global: two can run side by side."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from random import Random
from typing import TYPE_CHECKING

from hermes_lb.http import RequestParser, ResponseParser, date_field
from hermes_lb.limits.per_client import ConnectionCounter, request_rates
from hermes_lb.observe.recent import Recent
from hermes_lb.proxy import phases
from hermes_lb.proxy.batch import IoBatch
from hermes_lb.proxy.ports import AcceptLimit
from hermes_lb.tls.ticket_keys import TicketSecret
from hermes_lb.transport.run_queue import RunQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb import config
    from hermes_lb.affinity.stores.base import SharedStore
    from hermes_lb.limits.per_client import RateLimiter, SharedCounts
    from hermes_lb.observe.access_log import AccessLog
    from hermes_lb.observe.recorder import Recorder
    from hermes_lb.proxy.ports import Connection, ServerSide
    from hermes_lb.tasks import Tasks


@dataclass(slots=True, frozen=True)
class PlainTimeouts:
    """`config.Timeouts` for the data path, in seconds: a slot is read faster than a model."""

    request_head: float
    connect: float
    client: float
    server: float
    tunnel: float
    keep_alive: float
    queue: float


class RequestLog:
    """How requests that are over are written down, and where: the two change together."""

    __slots__ = ("access_log", "recorder")

    def __init__(self, recorder: Recorder, access_log: AccessLog) -> None:
        self.recorder = recorder
        self.access_log = access_log


class Context:
    """One balancer's clock, limits, parsers and registers of live connections."""

    def __init__(
        self,
        configured: config.Config,
        loop: asyncio.AbstractEventLoop,
        log: RequestLog,
        tasks: Tasks,
    ) -> None:
        self.loop = loop
        self.clock = loop.time  # monotonic seconds; the only clock of the data path
        self.recorder, self.access_log = log.recorder, log.access_log
        self.recent = Recent()
        self.tasks = tasks
        self.rng = Random()
        # By backend: the store of sessions that all processes learn; None: one process.
        self.shared_store: Callable[[str], SharedStore] | None = None
        # Counters that the processes share; None: one process.
        self.shared_requests: SharedCounts | None = None
        self.request_rates: RateLimiter | None = None
        self.tickets = TicketSecret.new()  # until the supervisor sends the shared one
        self.connection_counts = ConnectionCounter(configured.limits.connections_per_client)
        self._set_limits(configured)
        self.batch = IoBatch(loop)
        self.send = self.batch.send
        self.run_queue = RunQueue(loop)
        self.clients: set[Connection] = set()
        self.upstreams: set[ServerSide] = set()
        self.gate: AcceptLimit = AcceptLimit()  # none, until there are listeners
        self.is_draining = False
        self.keeps_clients = True  # behind a response: neither draining nor full
        self.key = secrets.token_bytes(16)  # until the supervisor sends the shared one
        self._request_id = secrets.token_hex(8).encode("ascii") + b"%016x"
        self._request_numbers = count(1)
        # Added to the clock, seconds since 1970; the sweep keeps it right when the time is set.
        self.wall_clock_offset = 0.0
        self.set_wall_clock()
        self._date = b""
        self._date_of = -1  # the second that it is of
        self._quiet = asyncio.Event()

    def _set_limits(self, configured: config.Config) -> None:
        self._limits = limits = configured.limits
        self.timeouts = PlainTimeouts(**configured.timeouts.model_dump())
        self.phase_limits = phases.limits(self.timeouts)
        self.most_in_head = limits.head_size
        self.most_for_retry = limits.retry_buffer
        self.most_in_body = limits.body_size or sys.maxsize
        self.request_rates = request_rates(
            limits, self.shared_requests, before=self.request_rates, now=self.clock()
        )
        kept = frozenset[bytes]().union(*(one.header_keys for one in configured.backends.values()))
        self.request_parser = RequestParser(limits, kept)
        self.response_parser = ResponseParser(limits.header_count, kept)

    def reconfigure(self, configured: config.Config) -> None:
        """Change limits and timeouts, for new connections and requests."""
        self._set_limits(configured)
        self.connection_counts.reconfigure(configured.limits.connections_per_client)
        self.gate.reconfigure(configured.process.max_connections)

    def log_to(self, log: RequestLog) -> None:
        """Set the log for requests that end after this call."""
        self.recorder, self.access_log = log.recorder, log.access_log

    def share(self, connections: SharedCounts | None, requests: SharedCounts | None) -> None:
        """Share the counters of clients with other processes; None: count locally."""
        self.connection_counts.share(connections)
        self.shared_requests = requests
        if self.request_rates is not None:
            self.request_rates.share(requests)

    def pseudonym(self, frontend: str) -> bytes:
        """The name of a frontend in Via: the same in all processes of this balancer, after an
        upgrade too, and different on every other balancer."""
        digest = blake2b(frontend.encode(), key=self.key, digest_size=8, person=b"via").hexdigest()
        return b"hermes-lb-" + digest.encode("ascii")

    def new_request_id(self) -> bytes:
        """32 hexadecimal digits: this process's random half, and a number."""
        return self._request_id % next(self._request_numbers)

    def set_wall_clock(self) -> None:
        """Update the offset of the wall clock."""
        self.wall_clock_offset = time.time() - self.clock()

    def seconds_since_1970(self) -> int:
        """By the clock that is set, to a second or so."""
        return int(self.clock() + self.wall_clock_offset)

    def date(self, now: float) -> bytes:
        """The Date field of a response that gets its head `now`, with its CRLF."""
        second = int(now + self.wall_clock_offset)
        if second != self._date_of:
            self._date, self._date_of = date_field(second), second
        return self._date

    def start_draining(self) -> None:
        """Stop keeping connections for further requests."""
        self.is_draining = True
        self.keeps_clients = False

    def connection_gone(self) -> None:
        """A connection has left its register."""
        if not self.clients and not self.upstreams:
            self._quiet.set()

    async def wait_until_quiet(self, timeout: float) -> bool:
        """Wait until all connections are closed -> True, or `timeout` seconds -> False."""
        deadline = self.clock() + timeout
        while self.clients or self.upstreams:
            self._quiet.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._quiet.wait()
            except TimeoutError:
                return False
        return True
