"""`resolve = "10s"` of a server: each address of its host name is a server like it.

The name is looked up at that interval by the system (`getaddrinfo`: /etc/hosts, DNS, whatever the
machine is set up for). It does not report a TTL, so none is used; a resolver on the machine caches
answers by their TTL, so that a look-up without news costs little.

A server's name contains its address: pod-10.0.1.12. Whatever the order of the answers, a server
keeps its name, and with it its counters, its affinity cookies and its place on hash rings.
HAProxy's `server-template` assigns numbers instead: those names are fewer, but one of them may
mean another machine tomorrow.

Until the first answer the server is as configured: its every connection looks the name up itself.
When a look-up fails, the last answer stays in use: health checks know better than a broken
resolver which servers are alive. An address is removed when several answers in a row lack it
(`addresses`), which is all the damping that there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hermes_lb.backends.options import DiscoveredServer
from hermes_lb.discovery.sources.addresses import MOST_ADDRESSES, Known
from hermes_lb.discovery.sources.base import Answer, DiscoveryFailed, Endpoint, Source
from hermes_lb.options.units import Address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from random import Random

    from hermes_lb.backends.options import Server, ServerTls


def name_at(name: str, address: str) -> str:
    """The name of the server `name` of the file at one of its addresses."""
    return f"{name}-{address.replace(':', '-')}"


@dataclass(frozen=True)
class ResolvedName:
    """A server with `resolve`, and its backend's TLS: what `discovery.watch` follows."""

    configured: Server
    tls: ServerTls | None

    kind: ClassVar[str] = "resolve"
    # An empty answer changes nothing, and an address that comes back is not held.
    empty_after: ClassVar[float] = float("inf")
    flap_hold: ClassVar[float] = 0.0
    max_servers: ClassVar[int] = MOST_ADDRESSES

    @property
    def address(self) -> Address:
        assert isinstance(self.configured.address, Address)
        return self.configured.address

    @property
    def interval(self) -> float:
        assert self.configured.resolve is not None
        return self.configured.resolve

    @property
    def origin(self) -> str:
        """Two with the same have the same servers."""
        return f"{self.kind} {self.address.host}"

    def label(self, backend: str) -> str:
        """For the log, and unique."""
        return f"{backend}/{self.configured.name}"

    @property
    def at_first(self) -> dict[str, Endpoint]:
        """In use until the first answer."""
        return {self.configured.name: Endpoint(self.address)}

    def source(self, rng: Random) -> ResolveSource:
        return ResolveSource(self, rng)

    def server(self, name: str, endpoint: Endpoint) -> DiscoveredServer:
        """One at `endpoint`, with all that is set for the host name. Its certificate is still
        checked for the name."""
        server, (host, port) = self.configured, self.address
        values: dict[str, Any] = {**server.model_dump(), "found_by": self.kind}
        if endpoint.address.is_literal:
            at = endpoint.address.host
            values |= {
                "name": name,
                "address": Address(at, port),
                "server_name": server.server_name
                or (self.tls and self.tls.server_name)
                or host.rstrip("."),
                "cookie": server.cookie and name_at(server.cookie, at),
                "resolve": None,
            }
        return DiscoveredServer.model_validate({**values, "template": server.name})


async def system_lookup(host: str) -> list[str]:
    """The system's addresses of a name. Raises OSError."""
    from hermes_lb.backends import dialing  # not to validate a configuration

    found = await dialing.HostName(host).look_up()
    return [str(entry[4][0]).partition("%")[0] for entry in found]


class ResolveSource(Source):
    def __init__(self, options: ResolvedName, rng: Random) -> None:
        self._options = options
        self._rng = rng
        self._known = Known()

    def start_with(self, servers: Mapping[str, Endpoint]) -> None:
        self._known.restore(servers.values())

    def endpoints(self, addresses: Iterable[str]) -> dict[str, Endpoint]:
        """At each of them, by the names of their servers."""
        name, port = self._options.configured.name, self._options.address.port
        return {name_at(name, at): Endpoint(Address(at, port)) for at in addresses}

    async def answers(self) -> AsyncIterator[Answer]:
        from asyncio import sleep  # not to validate a configuration

        from hermes_lb.tasks import jittered

        options, host = self._options, self._options.address.host
        while True:
            try:
                found = await system_lookup(host)
            except OSError as error:
                why = f"{host} can't be looked up: {error.strerror or error}"
                raise DiscoveryFailed(why, options.interval) from None
            if found:
                self._known.answered(found)
                yield Answer(self.endpoints(self._known.addresses))
            else:
                yield Answer({}, is_complete=False)
            await sleep(jittered(options.interval, self._rng))
