"""The discovered servers of all backends: what a balancer starts, reloads and stops."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hermes_lb.discovery.watch import Delta, Watch, endpoint_of
from hermes_lb.observe.observed import DiscoveryView
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from random import Random

    from hermes_lb import config
    from hermes_lb.backends.options import DiscoveredServer

# Seconds that a start waits for the first answers. Requests of a backend that still has no server
# then wait in its queue.
_PATIENCE = 5.0

_NO_SERVERS: dict[str, DiscoveredServer] = {}


class Discoveries:
    """Follows the sources of all backends that have one.

    After `start`, `changed(backend, delta)` is called for each change, in the loop's own thread.
    """

    def __init__(
        self,
        configured: Mapping[str, config.Backend],
        changed: Callable[[str, Delta], None],
        *,
        rng: Random,
    ) -> None:
        self._told = changed
        self._rng = rng
        self._tasks = Tasks()
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._is_starting = True  # changes are in `servers` only
        self.watches: dict[str, Watch] = {}
        for name, backend in configured.items():
            self._add(name, backend)

    def __repr__(self) -> str:
        return f"<Discoveries {list(self.watches.values())!r}>"

    def servers(self, backend: str) -> dict[str, DiscoveredServer]:
        """By name; none if it has no discovery."""
        watch = self.watches.get(backend)
        return watch.servers if watch is not None else _NO_SERVERS

    @property
    def state(self) -> list[list[Any]]:
        """The servers, fit for JSON, for `restore` after an upgrade."""
        return [
            [name, watch.kind, watch.failures, watch.last_success, list(watch.endpoints.items())]
            for name, watch in self.watches.items()
        ]

    def restore(self, state: Iterable[list[Any]]) -> None:
        """Before `start`: use these servers until an answer arrives."""
        for backend, kind, failures, last_success, endpoints in state:
            watch = self.watches.get(backend)
            if watch is not None and watch.kind == kind:
                watch.failures, watch.last_success = failures, last_success
                watch.start_with({name: endpoint_of(one) for name, one in endpoints})

    def views(self) -> list[DiscoveryView]:
        """One for each backend with a discovery."""
        return [
            DiscoveryView(name, one.kind, len(one.servers), one.failures, one.last_success or 0.0)
            for name, one in self.watches.items()
        ]

    async def start(self) -> None:
        """Follow all sources. Wait a few seconds for the first answer of those without servers."""
        self._run_all()
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                for watch in self.watches.values():
                    if not watch.servers:
                        await watch.has_answered.wait()
        self._is_starting = False

    async def reconfigure(self, configured: Mapping[str, config.Backend]) -> None:
        """After a reload: a discovery with other options starts again with the servers of before;
        others go on."""
        before, self.watches = self.watches, {}
        for name, backend in configured.items():
            old = before.get(name)
            if old is not None and old.options == backend.discovery:
                self.watches[name] = old
                continue
            self._add(name, backend)
            new = self.watches.get(name)
            if old is not None and new is not None and new.kind == old.kind:
                new.start_with(old.endpoints)
        ended = [self._runs.pop(n) for n, w in before.items() if self.watches.get(n) is not w]
        for run in ended:
            run.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
        self._run_all()

    async def stop(self) -> None:
        """Follow no source any more; the servers are kept. Idempotent."""
        await self._tasks.cancel_all()
        self._runs.clear()

    def _add(self, name: str, backend: config.Backend) -> None:
        if backend.discovery is not None:
            self.watches[name] = Watch(name, backend.discovery, self._changed, rng=self._rng)

    def _run_all(self) -> None:
        for name, watch in self.watches.items():
            if name not in self._runs:
                self._runs[name] = self._tasks.spawn(watch.run(), name=f"discovery of {name}")

    def _changed(self, backend: str, delta: Delta) -> None:
        if not self._is_starting:
            self._told(backend, delta)
