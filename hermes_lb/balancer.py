"""The composition root: builds one balancer from a configuration, starts it and ends it.

Nothing here or below it is global, and no signal is touched: a balancer runs in any event loop,
two can run side by side in one process, and none leaves anything behind.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Self

from hermes_lb.config import load_config
from hermes_lb.control.admin import AdminServer
from hermes_lb.health import HealthChecker
from hermes_lb.observe.access_log import AccessLog
from hermes_lb.observe.loop_lag import LoopLag
from hermes_lb.observe.observed import Observed
from hermes_lb.proxy import Backend, Context, Frontend, Sweep, has_moved
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Any

    from hermes_lb.config import Config
    from hermes_lb.pool import Pool, Server

# Seconds for transports that were closed to say so; they do in the next turns of the loop.
_CLOSING_TAKES = 5.0


class LoadBalancer:
    """A balancer; `async with LoadBalancer(config) as lb:` runs it, and `lb.url` reaches it.

    `config` is a `Config`, a dict of the same shape, or the path of a TOML file; port 0 takes any
    free one. Raises ConfigError at once if it is wrong, and OSError from `start` if an address
    can't be had. Leaving the block ends what still runs; `await lb.drain(seconds)` first if it
    shall finish.
    """

    def __init__(self, config: Config | Mapping[str, Any] | str | Path) -> None:
        self.config = load_config(config)
        self._tasks = Tasks()
        self._running = AsyncExitStack()
        self._context: Context | None = None
        self._frontends: list[Frontend] = []
        self._backends: dict[str, Backend] = {}
        self._admin: AdminServer | None = None

    def __repr__(self) -> str:
        state = "running" if self._context else "stopped"
        return f"<LoadBalancer {state}, {self._frontends!r}>"

    # Where it is reached.

    @property
    def url(self) -> str:
        """Of the first listener of the first frontend, such as `http://127.0.0.1:8080`."""
        return self.urls[0]

    @property
    def urls(self) -> list[str]:
        """Of all listeners, in the configuration's order; the real ports while it runs."""
        addresses = [address for frontend in self._frontends for address in frontend.addresses]
        return [f"http://{address.as_destination()}" for address in addresses]

    @property
    def admin_url(self) -> str | None:
        """Of the admin listener; None if it is off."""
        return f"http://{self._admin.address}" if self._admin else None

    @property
    def pools(self) -> dict[str, Pool]:
        """The servers by backend, with their states and counters."""
        return {name: backend.pool for name, backend in self._backends.items()}

    # Its life.

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, check and serve. If anything can't start, nothing is left open."""
        if self._context is not None:
            raise RuntimeError("this balancer was started already")
        async with AsyncExitStack() as starting:
            await self._start(starting)
            self._running = starting.pop_all()

    async def _start(self, starting: AsyncExitStack) -> None:
        """What is started last is stopped first; health comes before the first client."""
        configured = self.config
        access_log = AccessLog(configured.log.access)
        await access_log.start()
        starting.push_async_callback(access_log.close)
        loop = asyncio.get_running_loop()
        self._context = context = Context(configured, loop, access_log, self._tasks)
        starting.callback(self._forget)
        self._backends = {
            name: Backend(name, backend, context) for name, backend in configured.backends.items()
        }
        for backend in self._backends.values():
            starting.push_async_callback(backend.pins.close)
        checks = HealthChecker(
            self.pools,
            configured.backends,
            rng=random.Random(),
            clock=context.clock,
            moved=partial(has_moved, context),
            reported=self._load_reported,
        )
        await checks.start()
        starting.push_async_callback(checks.stop)
        sweep = Sweep(context, self._backends.values())
        sweep.start()
        starting.callback(sweep.stop)
        self._frontends = [
            Frontend(frontend, self._backends, context) for frontend in configured.frontends
        ]
        if configured.admin.enabled:
            loop_lag = LoopLag()
            loop_lag.start()
            starting.callback(loop_lag.stop)
            observed = Observed(
                self.pools, {f.name: f.counters for f in self._frontends}, access_log, loop_lag
            )
            self._admin = AdminServer(configured.admin, observed, clock=context.clock)
            await self._admin.start()
            starting.push_async_callback(self._admin.stop)
        starting.push_async_callback(self._end_all)
        for frontend in self._frontends:
            starting.push_async_callback(frontend.stop)
            await frontend.start()

    def _load_reported(self, server: Server, load: float) -> None:
        """A health check says how much a server has to do; some strategies want to know."""
        assert self._context is not None
        now = self._context.clock()
        for backend in self._backends.values():
            backend.load_reported(server, load, now)

    def _forget(self) -> None:
        self._context = None
        self._admin = None

    async def drain(self, timeout: float) -> bool:
        """Stop accepting and let what runs finish, for `timeout` seconds at most.

        Returns whether all of it has finished. The balancer still has to be stopped.
        """
        context = self._context
        if context is None:
            return True
        context.start_draining()
        context.turn.finish()
        if self._admin is not None:
            self._admin.is_draining = True
        for frontend in self._frontends:
            await frontend.stop()
        for client in list(context.clients):
            if client.exchange is None:
                client.close()
        self._close_idle()
        return await context.wait_until_quiet(timeout)

    async def stop(self) -> None:
        """End at once whatever still runs: each client sees its connection cut. Idempotent."""
        running, self._running = self._running, AsyncExitStack()
        await running.aclose()

    async def _end_all(self) -> None:
        context = self._context
        assert context is not None
        context.start_draining()
        context.turn.finish()
        # Those in the queue first: what the others give back is for nobody any more.
        for client in sorted(
            context.clients, key=lambda c: not (c.exchange and c.exchange.is_queued)
        ):
            if client.exchange is not None:
                client.exchange.shut_down()
            else:
                client.abort()
        for upstream in list(context.upstreams):
            upstream.transport.abort()
        await self._tasks.cancel_all()
        await context.wait_until_quiet(_CLOSING_TAKES)
        context.turn.finish()

    def _close_idle(self) -> None:
        for backend in self._backends.values():
            for connections in backend.connections.values():
                connections.close_idle()
