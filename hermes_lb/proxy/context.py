"""The parts that all connections of one balancer share.

Nothing is global: two balancers can run side by side. A part changes for one reason, and has its
own file. Connections and exchanges, and what works for them, hold the context; everything else is
given the parts that it uses.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from hermes_lb.http.trace_context import NewTraces
from hermes_lb.limits.clients import ClientLimits
from hermes_lb.observe.recent import Recent
from hermes_lb.proxy.batch import IoBatch
from hermes_lb.proxy.identity import Identity
from hermes_lb.proxy.live import LiveConnections
from hermes_lb.proxy.settings import Settings
from hermes_lb.proxy.wall_clock import WallClock
from hermes_lb.transport.run_queue import RunQueue

if TYPE_CHECKING:
    import asyncio

    from hermes_lb import config
    from hermes_lb.observe.request_log import RequestLog
    from hermes_lb.proxy.batch import Record
    from hermes_lb.proxy.turn_gateway import TurnGateway
    from hermes_lb.tasks import Tasks


class Context:
    """`log` and `settings` are replaced by a reload, for what begins or ends after it."""

    __slots__ = (
        "batch",
        "client_limits",
        "clock",
        "identity",
        "live",
        "log",
        "loop",
        "recent",
        "rng",
        "run_queue",
        "send",
        "settings",
        "tasks",
        "traces",
        "turns",
        "wall_clock",
    )

    def __init__(
        self,
        configured: config.Config,
        loop: asyncio.AbstractEventLoop,
        log: RequestLog,
        tasks: Tasks,
        record: Record,
    ) -> None:
        """`record`: called for each exchange that has ended."""
        self.loop = loop
        self.clock = loop.time  # monotonic seconds; the only clock of the data path
        self.wall_clock = WallClock(self.clock())
        self.tasks = tasks
        self.rng = Random()
        self.traces = NewTraces(self.rng)
        self.settings = Settings(configured)
        self.identity = Identity()
        self.live = LiveConnections()
        self.client_limits = ClientLimits(configured.limits)
        self.log = log
        self.recent = Recent()
        self.batch = IoBatch(loop, record)
        self.send = self.batch.send
        self.run_queue = RunQueue(loop)
        self.turns: TurnGateway | None = None  # once a route has turns

    def reconfigure(self, configured: config.Config) -> None:
        """Change limits and timeouts, for new connections and requests."""
        self.settings = Settings(configured)
        self.client_limits.reconfigure(configured.limits, self.clock())
        self.live.gate.reconfigure(configured.process.max_connections)
