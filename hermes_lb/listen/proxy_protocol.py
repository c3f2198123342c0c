"""The PROXY protocol, received: the address of the client of a proxy before us. No I/O.

Versions 1 (a line of text) and 2 (binary) of HAProxy's specification, `proxy-protocol.txt`. Its
rules for receivers: the header is there on each connection or on none, never guessed; it comes
whole and first; an unknown version or command ends the connection.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
# Section 2.1: the longest line is "PROXY UNKNOWN" with two IPv6 addresses, CRLF included.
_LONGEST_LINE = 107
# Section 2.2 allows 64 KiB of extensions; those in use (TLS and cloud identities) fit into 1 KiB.
_MOST_IN_V2 = 4096

_LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: [ -~]*)?|(TCP4|TCP6) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+)"
    rb" (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4}))\r\n"
)
_LOCAL, _PROXY = 0x20, 0x21  # version 2 and the command
_TCP4, _TCP6 = 0x11, 0x21
_ADDRESS_SIZES = {0: 0, 1: 12, 2: 36, 3: 216}  # by family: unspecified, IPv4, IPv6, unix

HostAndPort = tuple[str, int]


class InvalidHeader(Exception):
    """The connection does not begin with a header. The text has no word of the sender's."""


class ProxyHeader(NamedTuple):
    """`source` is the client and `destination` where it connected to; None: the proxy speaks for
    itself (a check of its own), or does not know. `size`: bytes of the header."""

    source: HostAndPort | None
    destination: HostAndPort | None
    size: int


def read_header(data: bytes | bytearray) -> ProxyHeader | None:
    """`data` is all input so far -> the header, or None: it is incomplete.

    Raises InvalidHeader as soon as it is certain.
    """
    if data.startswith(_V2[: len(data)]):
        return _read_v2(data)
    if data.startswith(_V1[: len(data)]):
        return _read_v1(data)
    raise InvalidHeader("there is none")


def _read_v1(data: bytes | bytearray) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _LONGEST_LINE) + 2
    if end < 2:
        if len(data) >= _LONGEST_LINE:
            raise InvalidHeader("the line has no end")
        return None
    match = _LINE.fullmatch(data, 0, end)
    if match is None:
        raise InvalidHeader("the line is malformed")
    family, source, destination, *ports = match.groups()
    if family is None:
        return ProxyHeader(None, None, end)
    kind = IPv4Address if family == b"TCP4" else IPv6Address
    source_port, destination_port = map(int, ports)
    if max(source_port, destination_port) > 65535:
        raise InvalidHeader("the line has no such port")
    try:
        here, there = str(kind(source.decode())), str(kind(destination.decode()))
    except ValueError:
        raise InvalidHeader("the line has no such address") from None
    return ProxyHeader((here, source_port), (there, destination_port), end)


def _read_v2(data: bytes | bytearray) -> ProxyHeader | None:
    if len(data) < 16:
        return None
    command, family = data[12], data[13]
    size = 16 + int.from_bytes(data[14:16], "big")
    if command not in (_LOCAL, _PROXY):
        raise InvalidHeader("it has another version or command")
    if size > _MOST_IN_V2:
        raise InvalidHeader("it is too long")
    if command == _LOCAL:  # section 2.2: the family and whatever follows are ignored
        return ProxyHeader(None, None, size) if len(data) >= size else None
    if family >> 4 not in _ADDRESS_SIZES or family & 15 > 2:
        raise InvalidHeader("it has another family or transport")
    addresses_end = 16 + _ADDRESS_SIZES[family >> 4]
    if size < addresses_end:
        raise InvalidHeader("it is too short for its addresses")
    if len(data) < size:
        return None
    _check_extensions(data, addresses_end, size)
    if family not in (_TCP4, _TCP6):
        return ProxyHeader(None, None, size)
    addresses, ports = bytes(data[16 : addresses_end - 4]), data[addresses_end - 4 : addresses_end]
    half = len(addresses) // 2
    return ProxyHeader(
        (str(ip_address(addresses[:half])), int.from_bytes(ports[:2], "big")),
        (str(ip_address(addresses[half:])), int.from_bytes(ports[2:], "big")),
        size,
    )


def _check_extensions(data: bytes | bytearray, at: int, end: int) -> None:
    """Type, length and value, one after another; the values are not used."""
    while at < end:
        at += 3 + int.from_bytes(data[at + 1 : at + 3], "big") if at + 3 <= end else 3
    if at != end:
        raise InvalidHeader("its extensions do not end where it ends")
