"""Host names of servers, looked up periodically: each address is a server of its own.

A server with `resolve` stands for all addresses of its host name. They are looked up at that
interval by the system (`getaddrinfo`: /etc/hosts, DNS, whatever the machine is set up for). It does
not report a TTL, so none is used; a resolver on the machine caches answers by their TTL, so that a
look-up without news costs little.

A server's name contains its address: pod-10.0.1.12. Whatever the order of the answers, a server
keeps its name, and with it its counters, its affinity cookies and its place on hash rings.
HAProxy's `server-template` assigns numbers instead: those names are fewer, but one of them may
mean another machine tomorrow.

When the look-up fails, the last answer stays in use: health checks know better than a broken
resolver which servers are alive. An address is removed when several answers in a row lack it
(`sources.addresses`).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

from hermes_lb.backends.dialing import HostName
from hermes_lb.config import Address
from hermes_lb.config.resolved import name_at
from hermes_lb.discovery.sources.addresses import Known
from hermes_lb.tasks import Tasks, jittered

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from typing import Any

    from hermes_lb import config

    Lookup = Callable[[str], Awaitable[Iterable[str]]]
    Changed = Callable[[str, list[config.Server]], None]

logger = logging.getLogger("hermes_lb.resolver")

# Seconds that a start waits for the first answers; a server without one is used as configured.
_PATIENCE = 5.0


def expand(
    server: config.Server, tls: config.ServerTls | None, addresses: Iterable[str]
) -> list[config.Server]:
    """One server for each address of a host name, with all that is set for the name.

    Their certificates are still checked for the name. Without an address: the server as it is,
    whose every connection looks the name up by itself.
    """
    assert isinstance(server.address, Address)
    host, port = server.address
    name = server.server_name or (tls and tls.server_name) or host.rstrip(".")
    expanded = []
    for address in addresses:
        known = {
            "name": name_at(server.name, address),
            "address": Address(address, port),
            "server_name": name,
            "cookie": server.cookie and name_at(server.cookie, address),
            "resolve": None,
        }
        expanded.append(server.model_copy(update=known))
    return expanded or [server]


async def system_lookup(host: str) -> list[str]:
    """The system's addresses of a name; raises OSError."""
    found = await HostName(host).look_up()
    return [str(entry[4][0]).partition("%")[0] for entry in found]


class _Name:
    """A server with `resolve`, in its backend."""

    def __init__(self, backend: str, server: config.Server) -> None:
        assert isinstance(server.address, Address)
        assert server.resolve is not None
        self.backend = backend
        self.server = server
        self.host = server.address.host
        self.interval = server.resolve
        self.known = Known()
        self.is_failing = False
        self.was_asked = asyncio.Event()

    def __str__(self) -> str:
        return f"{self.backend}/{self.server.name}"


class Resolver:
    """Keeps the servers of all backends as their names say.

    `backends` are the configured ones with the addresses of now; after `start`, `changed(backend,
    servers)` hears of each change, in the loop's own thread, and `failed(backend)` of each lookup
    that came to nothing.
    """

    def __init__(
        self,
        configured: Mapping[str, config.Backend],
        changed: Changed,
        *,
        rng: random.Random,
        lookup: Lookup = system_lookup,
        failed: Callable[[str], None] = lambda backend: None,
    ) -> None:
        self._configured = configured
        self._changed = changed
        self._rng = rng
        self._lookup = lookup
        self._failed = failed
        self._tasks = Tasks()
        self._names = _names_in(configured)
        self._is_starting = False  # changes go to `backends` only, without a call

    def __repr__(self) -> str:
        return f"<Resolver of {len(self._names)} names>"

    @property
    def backends(self) -> dict[str, config.Backend]:
        """The configured ones, with a server for each address that is known."""
        if not self._names:
            return dict(self._configured)
        return {
            name: backend.model_copy(update={"servers": self._servers(name)})
            for name, backend in self._configured.items()
        }

    def listed(self, failures: Mapping[str, int]) -> list[dict[str, Any]]:
        """For an operator. `failures`: look-ups that came to nothing, by backend."""
        return [
            {
                "backend": one.backend,
                "server": one.server.name,
                "host": one.host,
                "interval": one.interval,
                "addresses": list(one.known.addresses),
                "is_failing": one.is_failing,
                "failures": failures.get(one.backend, 0),
            }
            for one in self._names.values()
        ]

    @property
    def state(self) -> list[list[Any]]:
        """The known addresses, fit for JSON, for `restore` after an upgrade."""
        return [[*key, n.host, list(n.known.addresses)] for key, n in self._names.items()]

    def restore(self, state: Iterable[list[Any]]) -> None:
        """Before `start`: use these addresses, for configured names, until an answer arrives."""
        for backend, server, host, addresses in state:
            name = self._names.get((backend, server))
            if name is not None and name.host == host:
                name.known.answered(addresses)

    async def start(self) -> None:
        """Look every name up, now and periodically. `backends` are up to date when it returns.

        A name that is unknown, or not answered within 5 s, is retried; its server is used as
        configured until then.
        """
        self._is_starting = True
        for name in self._names.values():
            self._tasks.spawn(self._watch(name), name=f"resolver of {name}")
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                for name in self._names.values():
                    await name.was_asked.wait()
        self._is_starting = False

    async def reconfigure(self, configured: Mapping[str, config.Backend]) -> None:
        """After a reload: start again; names that were there before keep their addresses."""
        before, self._configured = self._names, configured
        self._names = _names_in(configured)
        for key, name in self._names.items():
            old = before.get(key)
            if old is not None and old.host == name.host:
                name.known, name.is_failing = old.known, old.is_failing
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        """Stop the look-ups; the addresses are kept. Idempotent."""
        await self._tasks.cancel_all()

    def _servers(self, backend: str) -> list[config.Server]:
        configured = self._configured[backend]
        servers = chain.from_iterable(
            expand(server, configured.tls, name.known.addresses)
            if (name := self._names.get((backend, server.name))) is not None
            else [server]
            for server in configured.servers
        )
        # A name that is taken belongs to the server that has it in the file.
        by_name = {server.name: server for server in servers}
        taken = {server.name: server for server in configured.servers if server.resolve is None}
        return list((by_name | taken).values())

    async def _watch(self, name: _Name) -> None:
        while True:
            if await self._ask(name) and not self._is_starting:
                self._changed(name.backend, self._servers(name.backend))
            name.was_asked.set()
            await asyncio.sleep(jittered(name.interval, self._rng))

    async def _ask(self, name: _Name) -> bool:
        """One lookup -> whether the addresses are others now."""
        try:
            answer = list(await self._lookup(name.host))
        except OSError as error:
            self._failed(name.backend)
            if not name.is_failing:
                name.is_failing = True
                reason = error.strerror or error
                logger.warning("%s: %s can't be looked up: %s", name, name.host, reason)
            return False
        if name.is_failing:
            name.is_failing = False
            logger.info("%s: %s can be looked up again", name, name.host)
        before = name.known.addresses
        if not answer or not name.known.answered(answer):
            return False
        logger.info("%s is %s, was %s", name, _listed(name.known.addresses), _listed(before))
        return True


def _names_in(configured: Mapping[str, config.Backend]) -> dict[tuple[str, str], _Name]:
    return {
        (backend, server.name): _Name(backend, server)
        for backend, table in configured.items()
        for server in table.servers
        if server.resolve is not None
    }


def _listed(addresses: Iterable[str]) -> str:
    return ", ".join(addresses) or "unknown"
