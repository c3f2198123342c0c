"""`dns = { name = "_http._tcp.agents.example.com" }`: SRV records, looked up again by their TTL.

With a `port` the name's addresses instead (A and AAAA), each of which is a server.

SRV (RFC 2782): the server is the target with its port and weight. Targets of the lowest priority
are the servers, all others are backups, since a backend has these two ranks. A weight of 0 counts
as 1: "a very small chance" is what the lowest weight is. A target's name is its server's name, so a
new address changes neither cookies nor counters. A target that can't be looked up keeps its last
address; one that does not exist is no server.

Addresses: the name contains the address, and an address goes when 3 answers in a row lack it, as
with `resolve`.

A name that does not exist is an empty answer, and a server that does not answer is a failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from hermes_lb.discovery.sources.addresses import Known
from hermes_lb.discovery.sources.base import (
    MOST_SERVERS,
    Answer,
    DiscoveryFailed,
    Endpoint,
    Source,
    SourceOptions,
)
from hermes_lb.discovery.sources.names import name_of_address, server_name
from hermes_lb.options.units import Address, PositiveDuration, parse_address, parse_server_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from random import Random

    from hermes_lb.discovery.sources.dns_resolver import DnsResolver, Service

# Look-ups of targets at the same time.
_AT_ONCE = 16


class DnsOptions(SourceOptions):
    """`[backends.NAME.discovery.dns]`."""

    name: str = Field(min_length=1, max_length=253)
    port: int | None = Field(None, ge=1, le=65_535)
    nameservers: list[str] | None = Field(None, min_length=1)
    min_interval: PositiveDuration = 1.0
    max_interval: PositiveDuration = 300.0

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        return parse_server_name(name)

    @field_validator("nameservers")
    @classmethod
    def _are_addresses(cls, given: list[str] | None) -> list[str] | None:
        for one in given or ():
            if not parse_address(one).is_literal:
                raise ValueError('write the addresses of DNS servers, such as "10.0.0.53:53"')
        return given


class DnsSource(Source):
    options = DnsOptions

    def __init__(
        self, options: DnsOptions, rng: Random, resolver: DnsResolver | None = None
    ) -> None:
        self._options = options
        self._rng = rng
        self._resolver = resolver
        self._known = Known()
        self._targets: dict[str, str] = {}  # the last address of each

    def start_with(self, servers: Mapping[str, Endpoint]) -> None:
        self._known.restore(servers.values())
        known = [(one.server_name, one.address.host) for one in servers.values()]
        self._targets = {target: host for target, host in known if target is not None}

    async def answers(self) -> AsyncIterator[Answer]:
        from asyncio import sleep  # not to validate a configuration

        options = self._options
        resolver = self._resolver = self._resolver or _made(options)
        while True:
            if options.port is not None:
                answer, ttl = await self._of_addresses(resolver, options.port)
            else:
                answer, ttl = await self._of_services(resolver)
            yield answer
            wait = min(max(ttl, options.min_interval), options.max_interval)
            # Later and never earlier: a cache on the way would give the old answer again.
            await sleep(wait * (1 + self._rng.random() / 10))

    async def close(self) -> None:
        if self._resolver is not None:
            await self._resolver.close()

    async def _of_addresses(self, resolver: DnsResolver, port: int) -> tuple[Answer, float]:
        name = self._options.name
        found, ttl = await resolver.addresses(name)
        if not found:
            return Answer({}, problem=f"{name} has no address"), ttl
        self._known.answered(found)
        label = name.partition(".")[0]
        servers = {
            server_name(f"{label}-{name_of_address(host, port)}") or host: Endpoint(
                Address(host, port), server_name=name
            )
            for host in self._known.addresses
        }
        return Answer(servers), ttl

    async def _of_services(self, resolver: DnsResolver) -> tuple[Answer, float]:
        from asyncio import Semaphore, gather

        name = self._options.name
        services, ttl = await resolver.services(name)
        if not services:
            return Answer({}, problem=f"{name} has no SRV record"), ttl
        services = sorted(services)[:MOST_SERVERS]
        hosts = sorted({service.target for service in services})
        limit = Semaphore(_AT_ONCE)

        async def look_up(host: str) -> tuple[str | None, float]:
            async with limit:
                return await self._address_of(resolver, host)

        found = await gather(*map(look_up, hosts))
        # Those that failed are asked again soon.
        ttl = min([ttl, *(each for _, each in found)])
        addresses = {host: address for host, (address, _) in zip(hosts, found, strict=True)}
        self._targets = {host: at for host, at in addresses.items() if at is not None}
        lost = [host for host, at in addresses.items() if at is None]
        problem = ""
        if lost:
            others = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            problem = f"the SRV target {ascii(lost[0])[1:-1]}{others} has no address"
        return Answer(endpoints(services, self._targets), problem=problem), ttl

    async def _address_of(self, resolver: DnsResolver, host: str) -> tuple[str | None, float]:
        """The last address while it is listed, or if the look-up fails."""
        last = self._targets.get(host)
        try:
            parse_server_name(host)
        except ValueError:  # no host name, and so no name of a server
            return None, self._options.max_interval
        try:
            found, ttl = await resolver.addresses(host)
        except DiscoveryFailed:
            return last, self._options.min_interval
        if not found:
            return None, ttl
        return (last if last in found else Known.sorted(found)[0]), ttl


def endpoints(services: Sequence[Service], addresses: Mapping[str, str]) -> dict[str, Endpoint]:
    """SRV records and the addresses of their targets -> servers."""
    first = min(service.priority for service in services)
    ports: dict[str, set[int]] = {}
    for service in services:
        ports.setdefault(service.target, set()).add(service.port)
    found: dict[str, Endpoint] = {}
    for service in services:
        host = service.target
        if host not in addresses or not service.port:
            continue
        name = server_name(host if len(ports[host]) == 1 else f"{host}-{service.port}")
        if name is None:
            continue
        endpoint = Endpoint(
            Address(addresses[host], service.port),
            max(service.weight, 1),
            is_backup=service.priority > first,
            server_name=host,
        )
        found.setdefault(name, endpoint)  # of two with one target, the better priority
    return found


def _made(options: DnsOptions) -> DnsResolver:
    try:
        from hermes_lb.discovery.sources.dns_resolver import DnsResolver
    except ImportError:
        raise DiscoveryFailed(
            "discovery by DNS needs the package dnspython: pip install 'hermes-lb[dns]'"
        ) from None
    return DnsResolver([parse_address(one) for one in options.nameservers or ()])
