"""Look-ups with TTL, by dnspython."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver

from hermes_lb.discovery.sources.base import DiscoveryFailed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from hermes_lb.options.units import Address

# Seconds for one server, and for a look-up with its retries.
_SERVER_TAKES = 2.0
_LOOK_UP_TAKES = 6.0
# Seconds that a stop waits for look-ups.
_ENDING_TAKES = 0.5

# Seconds until an answer without records is asked for again. Its TTL is in the zone's SOA record
# (RFC 2308), and is that of the zone's authors and not of a deployment that is just starting.
_EMPTY_TTL = 5.0


class Service(NamedTuple):
    """An SRV record."""

    priority: int
    weight: int
    port: int
    target: str


class DnsResolver:
    """Asks `servers`; none: those of /etc/resolv.conf."""

    def __init__(self, servers: Sequence[Address] = ()) -> None:
        try:
            self._resolver = dns.asyncresolver.Resolver(configure=not servers)
        except dns.resolver.NoResolverConfiguration as error:
            raise DiscoveryFailed(f"no DNS server is configured: {error}") from None
        if servers:
            self._resolver.nameservers = [one.host for one in servers]
            self._resolver.nameserver_ports = {one.host: one.port for one in servers}
        self._running: set[asyncio.Task[Any]] = set()
        self._resolver.timeout = _SERVER_TAKES
        self._resolver.lifetime = _LOOK_UP_TAKES
        self._resolver.cache = None  # a look-up is made when the TTL has passed

    async def close(self) -> None:
        """Look-ups that have begun may end, for a moment."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=_ENDING_TAKES)
            for one in late:
                one.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _ended(self, resolving: asyncio.Task[Any]) -> None:
        self._running.discard(resolving)
        if not resolving.cancelled():
            resolving.exception()  # its caller may have left

    async def addresses(self, name: str) -> tuple[list[str], float]:
        """IPv4 addresses, or IPv6 if there are none; seconds until they are asked for again.

        Raises DiscoveryFailed if no server answers.
        """
        for kind in ("A", "AAAA"):
            records, ttl = await self._look_up(name, kind)
            if records:
                return [record.address for record in records], ttl
        return [], ttl

    async def services(self, name: str) -> tuple[list[Service], float]:
        """SRV records; seconds until they are asked for again. Raises DiscoveryFailed."""
        records, ttl = await self._look_up(name, "SRV")
        services = [
            Service(one.priority, one.weight, one.port, _text(one.target)) for one in records
        ]
        return [one for one in services if one.target], ttl  # ".": there is no such service

    async def _look_up(self, name: str, kind: str) -> tuple[Sequence[Any], float]:
        # As a task that is not cancelled with the caller: dnspython would leave a socket open.
        resolving = asyncio.get_running_loop().create_task(
            self._resolver.resolve(name, kind, search=False), name=f"look-up of {name}"
        )
        self._running.add(resolving)
        resolving.add_done_callback(self._ended)
        await asyncio.wait({resolving})
        try:
            answer = resolving.result()
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return (), _EMPTY_TTL
        except (dns.exception.DNSException, OSError) as error:
            raise DiscoveryFailed(f"{name} ({kind}) can't be looked up: {_why(error)}") from None
        assert answer.rrset is not None
        return list(answer.rrset), float(answer.rrset.ttl)


def _text(name: Any) -> str:
    return str(name.to_text(omit_final_dot=True)).lower() if len(name) > 1 else ""


def _why(error: Exception) -> str:
    if isinstance(error, dns.resolver.LifetimeTimeout):
        return "no DNS server answers"
    if isinstance(error, dns.resolver.NoNameservers):
        return "no DNS server has an answer"
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
