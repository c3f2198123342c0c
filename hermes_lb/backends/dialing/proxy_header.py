"""The PROXY protocol, sent: the client's address, before the first byte of a connection.

HAProxy's `proxy-protocol.txt`: section 2.1 is version 1, a line of text; section 2.2 is version 2,
binary. A receiver takes the client's address from it, and must expect one on every connection: one
that serves no client (a health check) says LOCAL or UNKNOWN.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

_IP = IPv4Address | IPv6Address

_UNKNOWN_V1 = b"PROXY UNKNOWN\r\n"

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_LOCAL, _PROXY = 0x20, 0x21  # version 2 in the upper half
_UNSPEC, _TCP4, _TCP6 = 0x00, 0x11, 0x21


class Peers(NamedTuple):
    """The two ends of a client's connection: (address, port) each.

    An address that is no IP address, such as that of a Unix socket, is sent as unknown.
    """

    source: tuple[str, int]
    destination: tuple[str, int]


def build_v1(peers: Peers | None) -> bytes:
    """The header for a client's connection, or for one of our own (None): at most 107 bytes."""
    addresses = _addresses(peers)
    if peers is None or addresses is None:
        return _UNKNOWN_V1
    source, destination = addresses
    line = f"PROXY TCP{source.version} {source} {destination} {_ports(peers)}\r\n"
    return line.encode("ascii")


def build_v2(peers: Peers | None) -> bytes:
    """The header for a client's connection, or for one of our own (None): at most 52 bytes."""
    if peers is None:
        return _header_v2(_LOCAL, _UNSPEC, b"")
    addresses = _addresses(peers)
    if addresses is None:
        return _header_v2(_PROXY, _UNSPEC, b"")
    source, destination = addresses
    ports = struct.pack(">HH", peers.source[1], peers.destination[1])
    family = _TCP4 if source.version == 4 else _TCP6
    return _header_v2(_PROXY, family, source.packed + destination.packed + ports)


BUILDERS = {"v1": build_v1, "v2": build_v2}


def _header_v2(command: int, family: int, addresses: bytes) -> bytes:
    return _SIGNATURE + struct.pack(">BBH", command, family, len(addresses)) + addresses


def _ports(peers: Peers) -> str:
    return f"{peers.source[1]} {peers.destination[1]}"


def _addresses(peers: Peers | None) -> tuple[_IP, _IP] | None:
    """Both in one family; an IPv4 address beside an IPv6 one is mapped (RFC 4291 section 2.5.5)."""
    if peers is None:
        return None
    try:
        source, destination = _ip(peers.source[0]), _ip(peers.destination[0])
    except ValueError:
        return None
    if source.version == destination.version:
        return source, destination
    return _mapped(source), _mapped(destination)


def _ip(text: str) -> _IP:
    # The zone of a link-local address means something on this machine only.
    return ip_address(text.partition("%")[0])


def _mapped(address: _IP) -> IPv6Address:
    if isinstance(address, IPv6Address):
        return address
    return IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
