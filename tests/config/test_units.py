"""Durations, sizes, addresses, networks, statuses: accepted and refused texts."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.options.units import (
    MAX_DURATION,
    Address,
    format_duration,
    format_size,
    parse_address,
    parse_duration,
    parse_network,
    parse_size,
    status_range,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5.0),
        ("250ms", 0.25),
        ("10us", 1e-5),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        ("2d", 172_800.0),
        (" 1.5H ", 5400.0),
        (0, 0.0),
        (30, 30.0),
        (0.5, 0.5),
        ("36500d", MAX_DURATION),
    ],
)
def test_a_duration_is_seconds(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "5",
        "s",
        "5 s",
        "5x",
        "-5s",
        "1e3s",
        "5s!",
        "\u0665s",
        -1,
        True,
        None,
        [],
        float("inf"),
        float("nan"),
    ],
)
def test_what_is_no_duration(wrong: object) -> None:
    with pytest.raises(ValueError, match="write a duration such as"):
        parse_duration(wrong)


@pytest.mark.parametrize("endless", ["36501d", "9" * 400 + "s"])
def test_a_duration_stays_within_a_century(endless: str) -> None:
    with pytest.raises(ValueError, match="write at most"):
        parse_duration(endless)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64KiB", 65_536),
        ("64k", 65_536),
        ("1 MB", 1 << 20),
        ("2g", 2 << 30),
        ("100", 100),
        ("7b", 7),
        (0, 0),
        (1024, 1024),
    ],
)
def test_a_size_is_bytes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "wrong", ["", "k", "1.5k", "-1", "1tb", "1  k", -1, True, 1.0, None, "9" * 5000]
)
def test_what_is_no_size(wrong: object) -> None:
    with pytest.raises(ValueError, match="write a size such as"):
        parse_size(wrong)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.1.10:8000", "10.0.1.10", 8000),
        ("[2001:db8::1]:8000", "2001:db8::1", 8000),
        ("worker_1.local:65535", "worker_1.local", 65_535),
        ("*:0", "0.0.0.0", 0),
        (":8080", "0.0.0.0", 8080),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)


@pytest.mark.parametrize(
    "wrong",
    [
        "", "host", "host:", "host:x", "host:65536", "host:-1", "host:\u0668", "::1:80", "[::1]80",
        "[10.0.0.1]:80", "10.0.1.300:80", "10.0.1:80", "a b:80", "http://host:80", "-x:80", 80,
        None,
    ],
)  # fmt: skip
def test_what_is_no_address(wrong: object) -> None:
    with pytest.raises(ValueError, match='write "host:port"'):
        parse_address(wrong)


@given(st.ip_addresses(), st.integers(0, 65_535))
def test_an_address_reads_what_it_writes(host: object, port: int) -> None:
    address = Address(str(host), port)
    assert parse_address(str(address)) == address
    assert parse_address(address) is address


def test_a_network_may_be_one_address() -> None:
    assert parse_network("10.0.0.0/8") == ip_network("10.0.0.0/8")
    assert parse_network("2001:db8::/32") == ip_network("2001:db8::/32")
    assert parse_network("192.0.2.7") == ip_network("192.0.2.7/32")
    assert parse_network(parse_network("::/0")) == ip_network("::/0")


def test_a_network_with_bits_after_its_prefix_is_reported_with_the_one_meant() -> None:
    with pytest.raises(ValueError, match=r'bits after the prefix: write "10\.0\.0\.0/8"'):
        parse_network("10.0.0.1/8")


@pytest.mark.parametrize("wrong", ["", "10.0.0.0/33", "example.com", 5, None, True])
def test_what_is_no_network(wrong: object) -> None:
    with pytest.raises(ValueError, match="write a network such as"):
        parse_network(wrong)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, (200, 200)),
        ("204", (204, 204)),
        ("2xx", (200, 299)),
        ("200-399", (200, 399)),
        ("599-599", (599, 599)),
    ],
)
def test_a_status_is_a_range(status: object, expected: tuple[int, int]) -> None:
    assert status_range(status) == expected


@pytest.mark.parametrize("wrong", [99, 600, True, 200.0, "", "6xx", "2XX", "399-200", "20", "200-"])
def test_what_is_no_status(wrong: object) -> None:
    with pytest.raises(ValueError, match="write a status from 100 to 599"):
        status_range(wrong)


@given(st.integers(0, 10**9).map(lambda milliseconds: milliseconds / 1000))
def test_a_duration_reads_as_it_was_written(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-4, abs=1e-9)


@given(st.integers(0, 1 << 50))
def test_a_size_reads_as_it_was_written(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_durations_and_sizes_are_written_short() -> None:
    assert [format_duration(s) for s in (0.25, 5, 600, 5400, 86_400)] == [
        "250ms", "5s", "10m", "90m", "1d",
    ]  # fmt: skip
    assert [format_size(s) for s in (0, 1000, 32_768, 1 << 20)] == ["0", "1000", "32KiB", "1MiB"]
