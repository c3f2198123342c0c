"""The servers at the addresses of a host name (`resolve`)."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from hermes_lb.discovery.sources.resolve import ResolvedName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hermes_lb.backends.options import DiscoveredServer, Server, ServerTls


def expand(
    server: Server, tls: ServerTls | None, addresses: Iterable[str]
) -> list[DiscoveredServer]:
    """Those of an answer; without an address, the one of before."""
    name = ResolvedName(server, tls)
    endpoints = name.source(Random(0)).endpoints(addresses) or name.at_first
    return [name.server(*one) for one in endpoints.items()]
