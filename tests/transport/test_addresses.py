"""Addresses and networks, as text."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from hermes_lb.transport.addresses import forwarded_address, plain_address, plain_network


@pytest.mark.parametrize(
    ("address", "plain"),
    [
        ("2001:db8::7", "2001:db8::7"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("192.0.2.1", "192.0.2.1"),
        ("unix", "unix"),
    ],
)
def test_others_get_addresses_that_mean_something_to_them(address: str, plain: str) -> None:
    assert plain_address(address) == plain


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1:4711\t", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:4711", "192.0.2.1"),
        ("2001:DB8::0:7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:65535", "2001:db8::7"),
        ("fe80::1%eth0", "fe80::1"),
        ('[fe80::1%"x y]:1', "fe80::1"),
    ],
)
def test_an_address_is_read_in_whichever_way_a_proxy_writes_it(entry: str, address: str) -> None:
    assert forwarded_address(entry) == address


@pytest.mark.parametrize(
    "entry",
    ["", "unknown", "_hidden", "192.0.2.256", "192.0.2.1:", "192.0.2.1:x", "192.0.2.1:1:2",
     "192.0.2.1:123456", "[192.0.2.1]:1", "[2001:db8::7", "[2001:db8::7]4711", "[]", "a:80",
     "192.0.2.1 192.0.2.2", "2001:db8::7%"],
)  # fmt: skip
def test_what_is_no_address_is_not_read_as_one(entry: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        forwarded_address(entry)


@pytest.mark.parametrize(
    ("network", "plain"),
    [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),  # of IPv6, as nginx reads it
        ("2001:db8::/32", "2001:db8::/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
    ],
)
def test_a_network_of_mapped_addresses_is_one_of_ipv4(network: str, plain: str) -> None:
    assert str(plain_network(ip_network(network))) == plain
