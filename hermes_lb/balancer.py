"""The composition root: builds one balancer from a configuration, starts it and ends it.

Nothing here or below it is global, and no signal is touched: a balancer runs in any event loop,
two can run side by side in one process, and none leaves anything behind.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from hermes_lb.config import load_config
from hermes_lb.config.changes import describe_changes, refuse_fixed
from hermes_lb.control.admin import AdminServer
from hermes_lb.control.operator import NotPossible, find_server
from hermes_lb.control.state_file import RuntimeStates
from hermes_lb.discovery import Resolver
from hermes_lb.health.checker import HealthChecker
from hermes_lb.observe.observed import Observed
from hermes_lb.plane import DataPlane, request_log
from hermes_lb.proxy import end_sessions, has_moved, running_sessions
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from hermes_lb.backends import Pool, Server
    from hermes_lb.backends.server import Admin
    from hermes_lb.config import Config, Log
    from hermes_lb.config import Server as ServerConfig
    from hermes_lb.control.operator import Session
    from hermes_lb.observe.recent import Recent
    from hermes_lb.proxy.context import Context, RequestLog


class LoadBalancer:
    """A balancer; `async with LoadBalancer(config) as lb:` runs it, and `lb.url` reaches it.

    `config` is a `Config`, a dict of the same shape, or the path of a TOML file; port 0 takes any
    free one. Raises ConfigError at once if it is wrong, and OSError from `start` if an address
    can't be had. Leaving the block ends what still runs; `await lb.drain(seconds)` first if it
    shall finish.

    It is its own `control.Operator`: states and weights of servers, and the configuration, can be
    changed while it runs.
    """

    def __init__(self, config: Config | Mapping[str, Any] | str | Path) -> None:
        self.config = load_config(config)
        self._file = Path(config) if isinstance(config, str | Path) else None
        self._plane = DataPlane(self.config, make_log=self._request_log)
        state_file = self.config.process.state_file
        self._states = RuntimeStates(state_file, self._plane.pools) if state_file else None
        self._checks: HealthChecker | None = None
        self._admin: AdminServer | None = None
        self._running = AsyncExitStack()
        self._reloading = asyncio.Lock()
        self._tasks = Tasks()
        plane = self._plane
        self.observed = Observed(plane.pools, plane.counters, [plane.process], refresh=plane.look)
        self._resolver = Resolver(
            self.config.backends,
            self._addresses_changed,
            rng=random.Random(),
            failed=self.observed.upkeep.dns_failed,
        )

    def __repr__(self) -> str:
        state = "running" if self._plane.is_running else "stopped"
        return f"<LoadBalancer {state}, {', '.join(self.urls)}>"

    # Where it is reached.

    @property
    def url(self) -> str:
        """Of the first listener of the first frontend, such as `http://127.0.0.1:8080`."""
        return self.urls[0]

    @property
    def urls(self) -> list[str]:
        """Of all listeners, in the configuration's order; the real ports while it runs."""
        return [one.url for frontend in self._plane.frontends for one in frontend.listeners]

    @property
    def admin_url(self) -> str | None:
        """Of the admin listener; None if it is off."""
        return self._admin.url if self._admin else None

    @property
    def pools(self) -> dict[str, Pool]:
        """The servers by backend, with their states and counters."""
        return self._plane.pools

    # Its life.

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, check and serve. If anything can't start, nothing is left open."""
        if self._plane.is_running:
            raise RuntimeError("this balancer was started already")
        async with AsyncExitStack() as starting:
            await self._start(starting)
            self._running = starting.pop_all()

    async def _start(self, starting: AsyncExitStack) -> None:
        """What is started last is stopped first; health comes before the first client."""
        plane = self._plane
        starting.push_async_callback(self._resolver.stop)
        await self._resolver.start()
        plane.config = self._resolved(self.config)
        starting.push_async_callback(plane.stop)
        await plane.open()
        if self._states is not None:
            await self._states.start()
            starting.push_async_callback(self._states.stop)
            self._keep_states(self._states)
        self._checks = checks = HealthChecker(
            plane.pools,
            plane.config.backends,
            rng=random.Random(),
            clock=plane.context.clock,
            moved=self._has_moved,
            reported=plane.load_reported,
        )
        starting.push_async_callback(checks.stop)
        starting.push_async_callback(self._tasks.cancel_all)
        await checks.start()
        if self.config.admin.enabled:
            self._admin = AdminServer(self.config.admin, self)
            starting.callback(self._forget_admin)
            await self._admin.start()
            starting.push_async_callback(self._admin.stop)
        starting.push_async_callback(plane.end_all)
        await plane.listen()

    def _request_log(self, configured: Log) -> RequestLog:
        """What its requests are written to: made at the start, and at each change of `[log]`."""
        return request_log(configured)

    def _resolved(self, config: Config) -> Config:
        """With a server for each address of a name that is looked up."""
        return config.model_copy(update={"backends": self._resolver.backends})

    def _addresses_changed(self, backend: str, servers: list[ServerConfig]) -> None:
        self._tasks.spawn(self._set_servers(backend, servers), name="new addresses")

    async def _set_servers(self, backend: str, servers: list[ServerConfig]) -> None:
        async with self._reloading:
            if backend in self._plane.backends:
                self._plane.set_servers(backend, servers)
                await self._servers_changed()

    async def _servers_changed(self) -> None:
        """Whoever is new is checked, and what is set at run time is kept."""
        if self._states is not None:
            self._keep_states(self._states)
            self._states.changed()  # first: who has come back is as it was
        if self._checks is not None:
            await self._checks.reconfigure(self._plane.config.backends)

    async def _has_moved(self, server: Server, seconds: float) -> bool:
        return has_moved(self._plane.context, server, seconds)

    def _keep_states(self, states: RuntimeStates) -> None:
        for pool in self.pools.values():
            pool.on_change = lambda server: states.changed()

    def _forget_admin(self) -> None:
        self._admin = None

    async def drain(self, timeout: float) -> bool:
        """Stop accepting and let what runs finish, for `timeout` seconds at most.

        Returns whether all of it has finished. The balancer still has to be stopped.
        """
        return await self._plane.drain(timeout)

    async def stop(self) -> None:
        """End at once whatever still runs: each client sees its connection cut. Idempotent."""
        running, self._running = self._running, AsyncExitStack()
        await running.aclose()

    # What its operator sees and does (`control.Operator`).

    @property
    def _context(self) -> Context:
        return self._plane.context

    @property
    def recent(self) -> Recent:
        """The last requests that ended abnormally."""
        return self._plane.recent

    @property
    def is_draining(self) -> bool:
        """True as soon as it takes no new work."""
        return self._plane.is_running and self._context.is_draining

    @property
    def missing_processes(self) -> Literal["none"]:
        """There is only this one."""
        return "none"

    def now(self) -> float:
        """The data path's clock: monotonic seconds."""
        return self._context.clock()

    def set_state(self, backend: str, server: str, state: Admin) -> None:
        """`ready | drain | maint`, by HAProxy's meaning. Raises UnknownServer."""
        find_server(self.pools, backend, server).set_admin(state)

    def set_weight(self, backend: str, server: str, weight: int | None) -> None:
        """0 to 65535; 0 is out of rotation, None the configured one. Raises UnknownServer."""
        find_server(self.pools, backend, server).set_weight(weight)

    async def settle(self) -> bool:
        """Nothing to wait for: what is set here holds at once."""
        return True

    async def end_sessions(self, backend: str, server: str) -> int:
        """Cut what runs on a server, known or removed -> how many. Raises UnknownServer."""
        ended = end_sessions(self._context, backend, server)
        if not ended:
            find_server(self.pools, backend, server)
        return ended

    async def sessions(self) -> list[Session]:
        """The requests that run now, the longest first."""
        rows: list[Any] = running_sessions(self._context, self._plane.process.number)
        return sorted(rows, key=lambda row: -row["seconds"])

    async def reload(self) -> list[str]:
        """Read the file anew and apply it -> the changes, in words.

        Raises ConfigError with every problem, or OSError; all stays as it was then. NotPossible if
        the configuration was no file.
        """
        if self._file is None:
            raise NotPossible("there is no file to read anew: use reconfigure")
        return await self.reconfigure(self._file)

    async def reconfigure(self, config: Config | Mapping[str, Any] | str | Path) -> list[str]:
        """Go on by another configuration: what is on its way never notices.

        Returns the changes, in words. Raises ConfigError or OSError, and all stays as it was; an
        embedded balancer can change everything but `admin` and `process`.
        """
        upkeep = self.observed.upkeep
        async with self._reloading:
            try:
                new = load_config(config)
                refuse_fixed(self.config, new, str(self._file) if self._file else None)
                changes = describe_changes(self.config, new)
                await self._resolver.reconfigure(new.backends)
                await self._plane.reconfigure(self._resolved(new))
            except (ValueError, OSError):
                upkeep.failed_to_reload()
                await self._resolver.reconfigure(self.config.backends)
                raise
            await self._servers_changed()
            self.config = new
            upkeep.reloaded()
        return changes

    async def upgrade(self) -> None:
        """Raises NotPossible: there is only this process."""
        raise NotPossible("an embedded balancer can't replace its process")
