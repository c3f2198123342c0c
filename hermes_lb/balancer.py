"""The composition root: builds a balancer from a configuration, starts and stops it.

There is no global state and no signal handler here or below: a balancer runs in any event loop, two
can run in one process, and none leaves anything behind.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from hermes_lb.affinity.stores.memory import pin_id
from hermes_lb.config import load_config
from hermes_lb.config.changes import describe_changes, hold_back, refuse_fixed
from hermes_lb.config.dump import settings
from hermes_lb.config.runtime import RuntimeServers, checked
from hermes_lb.control.admin import AdminServer
from hermes_lb.control.operator import (
    KeptPin,
    NotPossible,
    carried_over,
    find_server,
    store_url,
)
from hermes_lb.control.runtime_states import RuntimeStates
from hermes_lb.discovery.discoveries import Discoveries
from hermes_lb.health.checker import HealthChecker
from hermes_lb.observe import certificates
from hermes_lb.observe.observed import Observed
from hermes_lb.plane import DataPlane, request_log
from hermes_lb.process_commands import ProcessCommands
from hermes_lb.tasks import Tasks
from hermes_lb.turns.store.embedded import EmbeddedStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from hermes_lb.backends import Pool, Server
    from hermes_lb.backends.server import Admin
    from hermes_lb.config import Config, Log
    from hermes_lb.control.shapes import Resolved, Session, Setting
    from hermes_lb.discovery.watch import Delta
    from hermes_lb.observe.recent import Recent
    from hermes_lb.observe.request_log import RequestLog
    from hermes_lb.proxy.context import Context


class LoadBalancer:
    """A balancer; `async with LoadBalancer(config) as lb:` runs it, and `lb.url` reaches it.

    `config` is a `Config`, a dict of the same shape, or the path of a TOML file; port 0 takes any
    free one. Raises ConfigError at once if it is invalid, and OSError from `start` if an address is
    not available. Leaving the block cuts requests in flight; `await lb.drain(seconds)` before lets
    them finish.

    Implements `control.Operator`: states and weights of servers, and the configuration, can be
    changed while it runs.
    """

    def __init__(self, config: Config | Mapping[str, Any] | str | Path) -> None:
        self.config = load_config(config)
        self._file = Path(config) if isinstance(config, str | Path) else None
        self._runtime = RuntimeServers()
        self._plane = DataPlane(self.config, make_log=self._request_log)
        state_file = self.config.process.state_file
        self._states = RuntimeStates(state_file, self._plane.pools) if state_file else None
        self._checks: HealthChecker | None = None
        self._admin: AdminServer | None = None
        self._running = AsyncExitStack()
        self._reloading = asyncio.Lock()
        self._tasks = Tasks()
        self._store = EmbeddedStore()
        plane = self._plane
        admin_certificates = certificates.of_admin(self.config.admin)
        self.observed = Observed(
            plane.pools, plane.counters, [plane.process], refresh=plane.look,
            certificates=lambda: plane.certificates() + admin_certificates,
        )  # fmt: skip
        self._discoveries = Discoveries(
            self.config.backends, self._discovered, rng=random.Random(),
            over=lambda backend, servers: self._runtime.over(backend, servers),
        )  # fmt: skip
        self.observed.upkeep.discoveries = self._discoveries.views

    def __repr__(self) -> str:
        state = "running" if self._plane.is_running else "stopped"
        return f"<LoadBalancer {state}, {', '.join(self.urls)}>"

    # Addresses.

    @property
    def url(self) -> str:
        """URL of the first frontend's first listener, such as `http://127.0.0.1:8080`."""
        return self.urls[0]

    @property
    def urls(self) -> list[str]:
        """URLs of all listeners, in configuration order, with real ports while it runs."""
        return [one.url for frontend in self._plane.frontends for one in frontend.listeners]

    @property
    def admin_url(self) -> str | None:
        """URL of the admin listener; None if it is off."""
        return self._admin.url if self._admin else None

    @property
    def pools(self) -> dict[str, Pool]:
        """The servers by backend, with their states and counters."""
        return self._plane.pools

    # Lifecycle.

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, check and serve. On failure nothing is left open."""
        if self._plane.is_running:
            raise RuntimeError("this balancer was started already")
        async with AsyncExitStack() as starting:
            await self._start(starting)
            self._running = starting.pop_all()

    async def _start(self, starting: AsyncExitStack) -> None:
        """Started last, stopped first; health checks start before the first client."""
        plane = self._plane
        starting.push_async_callback(self._store.stop)
        await self._start_store(self.config)
        starting.push_async_callback(self._discoveries.stop)
        await self._discoveries.start()
        plane.config = self._resolved(self.config)
        starting.push_async_callback(plane.stop)
        await plane.open()
        self._set_discovered()
        if self._states is not None:
            await self._states.start()
            starting.push_async_callback(self._states.stop)
            self._keep_states(self._states)
        self._checks = checks = HealthChecker(
            plane.pools,
            plane.config.backends,
            rng=random.Random(),
            clock=plane.context.clock,
            moved=self._saw_progress,
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
        """The access log: made at the start and at each change of `[log]`."""
        return request_log(configured)

    async def _start_store(self, config: Config) -> None:
        """The embedded one, if it is needed. It stays until the end. Raises ValueError."""
        if config.needs_embedded_store:
            given = config.store.directory
            await self._store.start(Path(given) if given else None)

    def _resolved(self, config: Config) -> Config:
        """With the servers of operators, and the embedded store."""
        if config.needs_embedded_store:
            config = config.with_store(self._store.url)
        backends = self._runtime.applied(config.backends)
        return config.model_copy(update={"backends": backends})

    def _set_discovered(self) -> None:
        """All that the discoveries know."""
        self._plane.set_discovered({name: self._discoveries.servers(name) for name in self.pools})

    def _discovered(self, backend: str, delta: Delta) -> None:
        """A discovery has found other servers."""
        found = self._plane.discover(backend, delta.servers, delta.gone)
        if found is None:
            return
        if self._states is not None:
            self._keep_states(self._states)
            self._states.changed()  # first, so that a returning server gets its saved state at once
        if self._checks is not None:
            self._checks.discover(backend, found.changed, found.removed)
        self.pools[backend].look_at_queue()

    async def _set_servers(self) -> None:
        """Those of operators, where they are others than now."""
        carry = carried_over(self.pools)
        for name, backend in self._runtime.applied(self.config.backends).items():
            if name in self.pools and self._plane.config.backends[name].servers != backend.servers:
                self._plane.set_servers(name, backend.servers, carry)
        self._set_discovered()
        await self._servers_changed()
        for pool in self.pools.values():
            pool.look_at_queue()

    async def _servers_changed(self) -> None:
        """Check new servers, and keep run-time states."""
        if self._states is not None:
            self._keep_states(self._states)
            self._states.changed()  # first, so that a returning server gets its saved state at once
        if self._checks is not None:
            await self._checks.reconfigure(self._plane.config.backends)

    async def _saw_progress(self, server: Server, seconds: float) -> bool:
        return self._plane.is_sending(server, seconds)

    def _keep_states(self, states: RuntimeStates) -> None:
        for pool in self.pools.values():
            pool.on_change = lambda server: states.changed()

    def _forget_admin(self) -> None:
        self._admin = None

    async def drain(self, timeout: float) -> bool:
        """Stop accepting, and let requests finish for `timeout` seconds at most.

        Returns True if all have finished. The balancer still has to be stopped.
        """
        return await self._plane.drain(timeout)

    async def stop(self) -> None:
        """Stop at once: clients' connections are cut. Idempotent."""
        running, self._running = self._running, AsyncExitStack()
        await running.aclose()

    # `control.Operator`.

    @property
    def _context(self) -> Context:
        return self._plane.context

    @property
    def recent(self) -> Recent:
        """The last requests that ended abnormally."""
        return self._plane.recent

    @property
    def is_draining(self) -> bool:
        """True once it accepts no more clients."""
        return self._plane.is_running and self._context.live.is_draining

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
        """0 (out of rotation) to 65535; None: as configured. Raises UnknownServer."""
        find_server(self.pools, backend, server).set_weight(weight)

    def set_health(self, backend: str, server: str, up: bool | None) -> None:
        """Up or down whatever its checks say; None: as they say. Raises UnknownServer."""
        found = find_server(self.pools, backend, server)
        assert self._checks is not None, "it does not run"
        self._checks.force(found, up)

    async def change_servers(self, change: Callable[[RuntimeServers], RuntimeServers]) -> None:
        """Add, remove or change servers until it ends. Raises ConfigError or ValueError."""
        async with self._reloading:
            runtime = change(self._runtime)
            checked(self.config, runtime, self.config.backends)
            self._runtime = runtime
            await self._set_servers()

    async def everywhere(self, command: str, **arguments: Any) -> list[Any]:
        """There is only this process."""
        return [ProcessCommands(self._plane).call(command, arguments)]

    def pins(self) -> list[KeptPin]:
        """Learned sessions, but not those in a shared store."""
        return [
            KeptPin(pin_id(key), name, server)
            for name, backend in self._plane.backends.items()
            if not backend.configured.pins.has_store
            for key, server in backend.session_table.pins()
        ]

    async def clear_pins(self, backend: str | None, server: str | None, pin: str | None) -> int:
        """Forget learned sessions -> the number of those that are in no store."""
        return sum(await self.everywhere("clear_pins", backend=backend, server=server, pin=pin))

    def resolvers(self) -> list[Resolved]:
        """Servers whose names are looked up."""
        rows: list[Any] = self._discoveries.resolvers()
        return rows

    def settings(self) -> list[Setting]:
        """The running configuration."""
        rows: list[Any] = settings(self.config, self._runtime, self._discoveries.servers)
        return rows

    async def settle(self) -> bool:
        """Changes take effect at once."""
        return True

    async def end_sessions(self, backend: str, server: str) -> int:
        """Cut requests on a server, known or removed -> their number. Raises UnknownServer."""
        ended = self._plane.end_sessions(backend=backend, server=server)
        if not ended:
            find_server(self.pools, backend, server)
        return ended

    async def sessions(self) -> list[Session]:
        """Requests in flight, longest first."""
        rows: list[Any] = self._plane.running_sessions()
        return sorted(rows, key=lambda row: -row["seconds"])

    def turn_store_url(self) -> str:
        return store_url(self.config, self._store)

    async def reload(self) -> list[str]:
        """Reload the file -> the changes, as text.

        Raises ConfigError with every problem, or OSError, without a change; NotPossible if the
        configuration was not a file.
        """
        if self._file is None:
            raise NotPossible("there is no file to reload: use reconfigure")
        return await self.reconfigure(self._file)

    async def reconfigure(self, config: Config | Mapping[str, Any] | str | Path) -> list[str]:
        """Apply another configuration without disturbing requests in flight.

        Returns the changes, as text. Raises ConfigError or OSError without a change. An embedded
        balancer can change everything but `process`, and changes of `admin` wait for a restart.
        """
        upkeep = self.observed.upkeep
        async with self._reloading:
            before = runtime = self._runtime
            try:
                new, waiting = hold_back(self.config, load_config(config))
                refuse_fixed(self.config, new, str(self._file) if self._file else None)
                changes = describe_changes(self.config, new) + waiting
                await self._start_store(new)
                await self._discoveries.reconfigure(new.backends)
                runtime = runtime.after_reload(self.config.backends, new.backends)
                checked(new, runtime, new.backends)
                self._runtime = runtime
                await self._plane.reconfigure(
                    self._resolved(new), before_serving=self._set_discovered
                )
            except (ValueError, OSError):
                upkeep.failed_to_reload()
                self._runtime = before
                await self._discoveries.reconfigure(self.config.backends)
                self._set_discovered()
                raise
            await self._servers_changed()
            self.config = new
            upkeep.reloaded()
        return changes

    async def upgrade(self) -> None:
        """Raises NotPossible: there is only this process."""
        raise NotPossible("an embedded balancer can't replace its process")
