"""The PROXY header that goes out: by the byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.backends.dialing import Peers, build_v1, build_v2

V2 = b"\r\n\r\n\x00\r\nQUIT\n"


def peers(source: str, destination: str) -> Peers:
    return Peers((source, 56_324), (destination, 443))


@pytest.mark.parametrize(
    ("told", "header"),
    [
        # The example of proxy-protocol.txt, section 2.1.
        (peers("192.168.0.1", "192.168.0.11"), b"TCP4 192.168.0.1 192.168.0.11 56324 443"),
        (peers("2001:db8::1", "::1"), b"TCP6 2001:db8::1 ::1 56324 443"),
        (peers("192.0.2.1", "2001:db8::1"), b"TCP6 ::ffff:192.0.2.1 2001:db8::1 56324 443"),
        (peers("fe80::1%eth0", "fe80::2%eth0"), b"TCP6 fe80::1 fe80::2 56324 443"),
        (peers("unix:", ""), b"UNKNOWN"),
        (None, b"UNKNOWN"),
    ],
    ids=["IPv4", "IPv6", "mixed", "zones", "no IP address", "our own"],
)
def test_version_1_is_a_line(told: Peers | None, header: bytes) -> None:
    # Python 3.11 writes a mapped address with hexadecimal digits, 3.13 with dots: both are right.
    line = build_v1(told).replace(b"::ffff:c000:201", b"::ffff:192.0.2.1")
    assert line == b"PROXY " + header + b"\r\n"


@pytest.mark.parametrize(
    ("told", "header"),
    [
        (
            peers("192.0.2.1", "192.0.2.2"),
            b"\x21\x11\x00\x0c" + b"\xc0\x00\x02\x01\xc0\x00\x02\x02" + b"\xdc\x04\x01\xbb",
        ),
        (
            peers("::1", "::2"),
            b"\x21\x21\x00\x24" + b"\0" * 15 + b"\x01" + b"\0" * 15 + b"\x02" + b"\xdc\x04\x01\xbb",
        ),
        (peers("unix:", ""), b"\x21\x00\x00\x00"),
        (None, b"\x20\x00\x00\x00"),
    ],
    ids=["IPv4", "IPv6", "no IP address", "our own"],
)
def test_version_2_is_binary(told: Peers | None, header: bytes) -> None:
    assert build_v2(told) == V2 + header


ENDS = st.tuples(st.ip_addresses().map(str) | st.text(max_size=20), st.integers(0, 65_535))


@given(ENDS, ENDS)
def test_no_address_makes_a_header_that_is_longer_than_it_may_be(
    source: tuple[str, int], destination: tuple[str, int]
) -> None:
    told = Peers(source, destination)
    line, header = build_v1(told), build_v2(told)
    assert len(line) <= 107
    assert line.count(b"\r") == line.count(b"\n") == 1
    assert len(header) == 16 + int.from_bytes(header[14:16], "big") <= 52
