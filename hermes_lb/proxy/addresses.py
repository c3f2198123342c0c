"""Clients' addresses, as they are logged, counted, hashed and told to servers."""

from __future__ import annotations

from ipaddress import IPv6Address

UNIX = "unix"
"""Of clients that come by a socket in the file system."""


def plain_address(address: str) -> str:
    """An IPv6 address without its zone, which means something on this machine only; IPv4 if it is
    a mapped one (`::ffff:192.0.2.1`). Others as they are."""
    if ":" not in address:
        return address
    address = address.partition("%")[0]
    mapped = IPv6Address(address).ipv4_mapped
    return address if mapped is None else str(mapped)
