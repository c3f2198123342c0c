"""The discovered servers of all backends: what a balancer starts, reloads and stops."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hermes_lb.discovery.sources.addresses import addresses_of
from hermes_lb.discovery.sources.resolve import ResolvedName
from hermes_lb.discovery.watch import Delta, Watch
from hermes_lb.observe.observed import DiscoveryView
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from random import Random

    from hermes_lb import config
    from hermes_lb.backends.options import DiscoveredServer
    from hermes_lb.discovery.watch import Followed

    Servers = Mapping[str, DiscoveredServer]  # by name

# Seconds that a start or a reload waits for first answers. Requests of a backend that still has no
# server then wait in its queue.
_PATIENCE = 5.0


def _as_found(backend: str, servers: Servers) -> Servers:
    return servers


class Discoveries:
    """Follows the sources of all backends that have one, and all servers with `resolve`.

    After `start`, `changed(backend, delta)` is called for each change, in the loop's own thread.
    `over(backend, servers)` gives the servers with what operators have changed about them.
    """

    def __init__(
        self,
        configured: Mapping[str, config.Backend],
        changed: Callable[[str, Delta], None],
        *,
        rng: Random,
        over: Callable[[str, Servers], Servers] = _as_found,
    ) -> None:
        self._on_change = changed
        self._rng = rng
        self._over = over
        self._tasks = Tasks()
        self._runs: dict[Watch, asyncio.Task[None]] = {}
        self._new: set[Watch] = set()  # changes of these are in `servers` only
        self.watches: dict[str, Watch] = {}  # by label
        self._follow(configured)

    def __repr__(self) -> str:
        return f"<Discoveries {list(self.watches.values())!r}>"

    def servers(self, backend: str) -> Servers:
        """By name; none if it has no discovery. A name that two have is that of the first."""
        found: dict[str, DiscoveredServer] = {}
        for watch in self.watches.values():
            if watch.backend == backend:
                found = {**found, **watch.servers, **found} if found else watch.servers
        return self._over(backend, found)

    @property
    def state(self) -> list[list[Any]]:
        """The servers, fit for JSON, for `restore` after an upgrade."""
        return [watch.state for watch in self.watches.values()]

    def restore(self, state: Iterable[list[Any]]) -> None:
        """Before `start`: use these servers until an answer arrives."""
        for one in state:
            if (watch := self.watches.get(one[0])) is not None:
                watch.restore(one)

    def views(self) -> list[DiscoveryView]:
        """One for each backend and kind."""
        views: dict[tuple[str, str], DiscoveryView] = {}
        for one in self.watches.values():
            key = one.backend, one.kind
            view = DiscoveryView(*key, len(one.servers), one.failures, one.last_success or 0.0)
            views[key] = view.beside(views[key]) if key in views else view
        return list(views.values())

    def resolvers(self) -> list[dict[str, Any]]:
        """The servers with `resolve`, for an operator."""
        failures = {(view.backend, view.kind): view.failures for view in self.views()}
        return [
            {
                "backend": watch.backend,
                "server": options.configured.name,
                "host": options.address.host,
                "interval": options.interval,
                "addresses": addresses_of(watch.endpoints.values()),
                "is_failing": watch.is_failing,
                "failures": failures[watch.backend, watch.kind],
            }
            for watch in self.watches.values()
            if isinstance(options := watch.options, ResolvedName)
        ]

    async def start(self) -> None:
        """Follow all sources. Wait a few seconds for the first answers of those that are new."""
        self._new = {watch for watch in self.watches.values() if watch not in self._runs}
        for watch in self._new:
            name = f"discovery of {watch.label}"
            self._runs[watch] = self._tasks.spawn(watch.run(), name=name)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                for watch in self._new:
                    if not (watch.servers and watch.last_success):
                        await watch.has_answered.wait()
        self._new = set()

    async def reconfigure(self, configured: Mapping[str, config.Backend]) -> None:
        """After a reload: a discovery with other options starts again with the servers of before;
        others go on. The caller sets all `servers` then."""
        self._follow(configured)
        present = set(self.watches.values())
        ended = [self._runs.pop(watch) for watch in list(self._runs) if watch not in present]
        for run in ended:
            run.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
        await self.start()

    async def stop(self) -> None:
        """Follow no source any more; the servers are kept. Idempotent."""
        await self._tasks.cancel_all()
        self._runs.clear()

    def _follow(self, configured: Mapping[str, config.Backend]) -> None:
        before, self.watches = self.watches, {}
        for name, backend in configured.items():
            for options in _followed(backend):
                watch = before.get(options.label(name))
                if watch is None or watch.options != options:
                    old, watch = watch, Watch(name, options, self._changed, rng=self._rng)
                    if old is not None:
                        watch.restore(old.state)
                self.watches[watch.label] = watch

    def _changed(self, watch: Watch, delta: Delta) -> None:
        if watch not in self._new:
            now = self.servers(watch.backend)
            names = [*(server.name for server in delta.servers), *delta.gone]
            present = [now[name] for name in names if name in now]
            self._on_change(
                watch.backend, Delta(present, [name for name in names if name not in now])
            )


def _followed(backend: config.Backend) -> Iterator[Followed]:
    for server in backend.servers:
        if server.resolve is not None:
            yield ResolvedName(server, backend.tls)
    if backend.discovery is not None:
        yield backend.discovery
