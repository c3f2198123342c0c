"""Clients' addresses, as they are logged, counted, hashed and sent to servers."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

UNIX = "unix"
"""Of clients that come by a socket in the file system."""


# `::ffff:0:0/96` (RFC 4291 section 2.5.5.2).
_MAPPED_BITS = 96

# `192.0.2.1:4711`, `[2001:db8::7]:4711` and `[2001:db8::7]`: nginx reads all but the last one too.
_WITH_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}|\[([^]]*:[^]]*)\](?::[0-9]{1,5})?")


def plain_address(address: str) -> str:
    """An IPv6 address without its zone, which means something on this machine only; IPv4 if it is
    a mapped one (`::ffff:192.0.2.1`). Others as they are."""
    if ":" not in address:
        return address
    address = address.partition("%")[0]
    mapped = IPv6Address(address).ipv4_mapped
    return address if mapped is None else str(mapped)


def plain_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """The IPv4 network of mapped addresses (`::ffff:10.0.0.0/104`). Others as they are."""
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))


def forwarded_address(entry: str) -> str:
    """One entry of X-Forwarded-For, perhaps with a port, as a plain address.

    Raises ValueError if it is not an address.
    """
    entry = entry.strip()
    if (with_port := _WITH_PORT.fullmatch(entry)) is not None:
        entry = with_port[1] or with_port[2]
    return plain_address(str(ip_address(entry)))
