"""The PROXY header, by the words and tables of proxy-protocol.txt."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.listen.proxy_protocol import InvalidHeader, ProxyHeader, read_header

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
PORTS = st.integers(0, 65535)
ADDRESSES = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
)


def v1(source: object, destination: object, port: object = 1, to: object = 2) -> bytes:
    family = "TCP6" if ":" in str(source) else "TCP4"
    return f"PROXY {family} {source} {destination} {port} {to}\r\n".encode()


def v2(
    family: int, addresses: bytes, extensions: bytes = b"", *, command: int = 0x21, cut: int = 0
) -> bytes:
    rest = addresses + extensions
    size = (len(rest) - cut).to_bytes(2, "big")
    return SIGNATURE + bytes([command, family]) + size + rest


def packed(
    source: IPv4Address | IPv6Address, destination: IPv4Address | IPv6Address, port: int, to: int
) -> bytes:
    ports = port.to_bytes(2, "big") + to.to_bytes(2, "big")
    return v2(0x11 if source.version == 4 else 0x21, source.packed + destination.packed + ports)


def test_the_examples_of_the_specification() -> None:
    line = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"
    all_ones = ("255.255.255.255", 65535)
    assert read_header(line + b"GET / HTTP/1.1\r\n") == ProxyHeader(all_ones, all_ones, len(line))
    line = (
        b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
        b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"
    )
    all_ones = (":".join(["ffff"] * 8), 65535)
    assert read_header(line) == ProxyHeader(all_ones, all_ones, len(line))
    for line in (
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
    ):
        assert read_header(line) == ProxyHeader(None, None, len(line))


@given(ADDRESSES, PORTS, PORTS)
def test_both_versions_tell_the_same(
    pair: tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address], port: int, to: int
) -> None:
    source, destination = pair
    for data in (v1(source, destination, port, to), packed(source, destination, port, to)):
        read = read_header(data + b"behind")
        assert read is not None
        assert read.size == len(data)
        assert read.source is not None
        assert read.destination is not None
        assert (ip_address(read.source[0]), read.source[1]) == (source, port)
        assert (ip_address(read.destination[0]), read.destination[1]) == (destination, to)


@given(ADDRESSES)
def test_a_part_of_a_header_waits_for_the_rest(
    pair: tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address],
) -> None:
    for data in (v1(*pair), packed(*pair, 1, 2)):
        for end in range(len(data)):
            assert read_header(data[:end]) is None


def test_a_proxy_that_checks_speaks_for_itself() -> None:
    data = v2(0, b"", command=0x20)
    assert read_header(data) == ProxyHeader(None, None, 16)
    data = v2(0x11, b"anything at all", command=0x20)
    assert read_header(data) == ProxyHeader(None, None, len(data))


@pytest.mark.parametrize("family", [0x13, 0x44, 0xFF])
def test_a_proxy_that_speaks_for_itself_may_name_any_family(family: int) -> None:
    """Section 2.2: the family is ignored with LOCAL, by HAProxy 2.6 too."""
    data = v2(family, b"anything at all", command=0x20)
    assert read_header(data) == ProxyHeader(None, None, len(data))


@pytest.mark.parametrize(
    ("family", "size"),
    [(0x00, 0), (0x00, 5), (0x12, 12), (0x22, 36), (0x31, 216), (0x32, 216)],
    ids=["unspecified", "unspecified with more", "UDP4", "UDP6", "unix stream", "unix datagram"],
)
def test_families_that_are_no_tcp_leave_the_connection_its_address(family: int, size: int) -> None:
    data = v2(family, b"\x04\0\2ab" if size == 5 else bytes(size))
    assert read_header(data) == ProxyHeader(None, None, len(data))


def test_extensions_are_passed_over() -> None:
    extensions = b"\x04\x00\x03abc" + b"\x05\x00\x00"
    data = v2(0x11, bytes([1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0, 10]), extensions)
    assert read_header(data) == ProxyHeader(("1.2.3.4", 9), ("5.6.7.8", 10), len(data))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"PROXY\r\n",
        b"PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
        b"PROXY TCP4 1.2.3.400 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY UNKNOWN\x00\r\n",
        b"proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n" + b"x" * 100,
        b"PROXY UNKNOWN " + b"x" * 100,
        SIGNATURE + b"\x11\x11\0\0",  # version 1 in binary
        SIGNATURE + b"\x22\x11\0\0",  # no such command
        SIGNATURE + b"\x21\x41\0\0",  # no such family
        SIGNATURE + b"\x21\x13\0\0",  # no such transport
        SIGNATURE + b"\x21\x11\0\x0b" + bytes(11),
        SIGNATURE + b"\x21\x21\0\x23" + bytes(35),
        SIGNATURE + b"\x21\x11\xff\xff",
        v2(0x11, bytes(12), b"\x04\x00"),
        v2(0x11, bytes(12), b"\x04\x00\x05ab"),
        SIGNATURE[:11] + b"x",
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidHeader):
        read_header(data)


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=60).map(lambda b: SIGNATURE + b)))
def test_no_bytes_are_fatal(data: bytes) -> None:
    try:
        read = read_header(data)
    except InvalidHeader:
        return
    assert read is None or read.size <= len(data)
