"""`dns`: SRV records and addresses by a DNS server of the tests; TTL, priorities, targets that do
not resolve, and answers that are wrong."""

from __future__ import annotations

import asyncio
import logging
import struct
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.discovery import watch as watch_module
from hermes_lb.discovery.sources.addresses import GONE_AFTER
from hermes_lb.discovery.sources.base import DiscoveryFailed, Endpoint
from hermes_lb.discovery.sources.dns import DnsOptions, DnsSource, endpoints
from hermes_lb.discovery.sources.names import name_of_address, server_name
from hermes_lb.options.units import Address
from tests.discovery.followed import Followed, followed
from tests.support.needs import needs_package
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

needs_package("dns")

from hermes_lb.discovery.sources import dns_resolver  # noqa: E402
from hermes_lb.discovery.sources.dns_resolver import Service  # noqa: E402

_TYPES = {"A": 1, "AAAA": 28, "SRV": 33}
NXDOMAIN, SERVFAIL = 3, 2


class NameServer(asyncio.DatagramProtocol):
    """Answers from `records`: by name and type, the data and the TTL. Written by hand: the library
    that is tested reads it."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[tuple[bytes, int]]] = {}
        self.code: int | None = None  # of each answer
        self.garbage: bytes | None = None
        self.is_silent = False
        self.asked: list[tuple[str, str]] = []

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.address = "127.0.0.1:{}".format(transport.get_extra_info("sockname")[1])

    def a(self, name: str, *hosts: str, ttl: int = 60) -> None:
        packed = [bytes(map(int, host.split("."))) for host in hosts]
        self.records[name, "A"] = [(data, ttl) for data in packed]

    def srv(self, name: str, *services: tuple[int, int, int, str], ttl: int = 60) -> None:
        self.records[name, "SRV"] = [
            (struct.pack(">HHH", *numbers) + wire(target), ttl) for *numbers, target in services
        ]

    def datagram_received(self, data: bytes, source: Any) -> None:
        if self.is_silent:
            return
        if self.garbage is not None:
            self._transport.sendto(self.garbage, source)
            return
        labels, place = [], 12
        while data[place]:
            labels.append(data[place + 1 : place + 1 + data[place]].decode())
            place += 1 + data[place]
        [number] = struct.unpack(">H", data[place + 1 : place + 3])
        kind = next((kind for kind, one in _TYPES.items() if one == number), "other")
        name = ".".join(labels).lower()
        self.asked.append((name, kind))
        found = self.records.get((name, kind), [])
        is_known = any(name == known for known, _ in self.records)
        code = (0 if is_known else NXDOMAIN) if self.code is None else self.code
        answer = data[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(found), 0, 0)
        answer += data[12 : place + 5]
        for record, ttl in found:
            answer += b"\xc0\x0c" + struct.pack(">HHIH", number, 1, ttl, len(record)) + record
        self._transport.sendto(answer, source)


def wire(name: str) -> bytes:
    labels = [label for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"


SRV = "_http._tcp.agents.test"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(watch_module, "_FIRST_RETRY", 0.01)
    monkeypatch.setattr(watch_module, "_LAST_RETRY", 0.05)
    caplog.set_level(logging.INFO, "hermes_lb.discovery")


@pytest.fixture
async def dns() -> AsyncIterator[NameServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, ("127.0.0.1", 0))
    server.a("one.agents.test", "10.0.0.1")
    server.a("two.agents.test", "10.0.0.2")
    server.srv(SRV, (1, 10, 8001, "one.agents.test"), (1, 20, 8002, "two.agents.test"))
    yield server
    transport.close()


def looked_up(dns: NameServer, **options: Any) -> AbstractAsyncContextManager[Followed]:
    table = {"name": SRV, "nameservers": [dns.address], "min_interval": "10ms"} | options
    return followed({"dns": table, "flap_hold": "0s"})


BOTH = {"one.agents.test": "10.0.0.1:8001", "two.agents.test": "10.0.0.2:8002"}


async def test_srv_records_have_port_and_weight(dns: NameServer) -> None:
    async with looked_up(dns) as found:
        await until(lambda: found.is_at(BOTH))
        servers = found.watch.servers
        assert {name: one.weight for name, one in servers.items()} == {
            "one.agents.test": 10, "two.agents.test": 20,
        }  # fmt: skip
        assert {one.server_name for one in servers.values()} == set(BOTH)
        assert {one.source for one in servers.values()} == {"dns"}


async def test_the_ttl_says_when_it_is_asked_again(dns: NameServer) -> None:
    async with looked_up(dns) as found:
        await until(lambda: found.is_at(BOTH))
    assert dns.asked.count((SRV, "SRV")) == 1  # for a minute
    dns.srv(SRV, (1, 10, 8001, "one.agents.test"), ttl=0)
    async with looked_up(dns) as found:
        await until(lambda: len(found.watch.servers) == 1)
        dns.a("one.agents.test", "10.0.0.9")
        await until(lambda: found.is_at({"one.agents.test": "10.0.0.9:8001"}))
    assert dns.asked.count((SRV, "SRV")) >= 3


async def test_a_target_that_does_not_exist_is_named(
    dns: NameServer, caplog: pytest.LogCaptureFixture
) -> None:
    dns.srv(SRV, (1, 1, 8001, "one.agents.test"), (1, 1, 8002, "none.agents.test"), ttl=0)
    async with looked_up(dns) as found:
        await until(lambda: found.is_at({"one.agents.test": "10.0.0.1:8001"}))
        await until(lambda: dns.asked.count((SRV, "SRV")) > 3)
    assert caplog.text.count("the SRV target none.agents.test has no address") == 1


async def test_a_target_that_can_not_be_looked_up_keeps_its_address(dns: NameServer) -> None:
    source = DnsSource(DnsOptions(name=SRV), Random(0), FakeResolver())  # type: ignore[arg-type]
    resolver: Any = source._resolver
    answer, _ = await source._of_services(resolver)
    assert {name: str(one.address) for name, one in answer.present.items()} == {
        "a.test": "10.0.0.1:1"
    }
    resolver.fails = True
    answer, ttl = await source._of_services(resolver)
    assert {name: str(one.address) for name, one in answer.present.items()} == {
        "a.test": "10.0.0.1:1"
    }
    assert ttl == 1.0  # soon again


async def test_a_source_starts_with_what_was_known_before() -> None:
    resolver: Any = FakeResolver()
    by_target = DnsSource(DnsOptions(name=SRV), Random(0), resolver)
    by_target.start_with({"a.test": Endpoint(Address("10.0.0.7", 1), server_name="a.test")})
    resolver.fails = True
    answer, _ = await by_target._of_services(resolver)
    assert [str(one.address) for one in answer.present.values()] == ["10.0.0.7:1"]
    resolver.fails = False
    options = DnsOptions(name="a.test", port=1)
    by_address = DnsSource(options, Random(0), resolver)
    by_address.start_with({"a-10.0.0.7-1": Endpoint(Address("10.0.0.7", 1), server_name="a.test")})
    for _ in range(GONE_AFTER - 1):
        answer, _ = await by_address._of_addresses(resolver, 1)
        assert list(answer.present) == ["a-10.0.0.1-1", "a-10.0.0.7-1"]
    answer, _ = await by_address._of_addresses(resolver, 1)
    assert list(answer.present) == ["a-10.0.0.1-1"]


class FakeResolver:
    fails = False

    async def services(self, name: str) -> tuple[list[Service], float]:
        return [Service(0, 0, 1, "a.test")], 60.0

    async def addresses(self, name: str) -> tuple[list[str], float]:
        if self.fails:
            raise DiscoveryFailed("no")
        return ["10.0.0.1"], 60.0


async def test_addresses_of_a_name(dns: NameServer) -> None:
    dns.a("agents.test", "10.0.0.2", "10.0.0.1", ttl=0)
    async with looked_up(dns, name="agents.test", port=8000) as found:
        both = {
            "agents-10.0.0.1-8000": "10.0.0.1:8000",
            "agents-10.0.0.2-8000": "10.0.0.2:8000",
        }
        await until(lambda: found.is_at(both))
        dns.a("agents.test", "10.0.0.1", ttl=0)
        await until(lambda: len(found.watch.servers) == 1)
    assert len(found.deltas) == 2


async def test_a_name_that_no_longer_exists_is_an_empty_answer(
    dns: NameServer, caplog: pytest.LogCaptureFixture
) -> None:
    dns.srv(SRV, (1, 1, 8001, "one.agents.test"), ttl=0)
    async with looked_up(dns) as found:
        await until(lambda: len(found.watch.servers) == 1)
        del dns.records[SRV, "SRV"]
        await until(lambda: "the last 1 stay for 30s" in caplog.text)
        assert f"{SRV} has no SRV record" in caplog.text
        assert found.watch.failures == 0
        assert len(found.watch.servers) == 1


async def test_servers_that_fail_change_nothing(
    dns: NameServer, caplog: pytest.LogCaptureFixture
) -> None:
    dns.srv(SRV, (1, 1, 8001, "one.agents.test"), ttl=0)
    async with looked_up(dns) as found:
        await until(lambda: len(found.watch.servers) == 1)
        dns.code = SERVFAIL
        await until(lambda: found.watch.failures >= 2)
        assert len(found.watch.servers) == 1
        dns.code = None
        await until(lambda: "works again" in caplog.text)
    assert caplog.text.count("can't be looked up: no DNS server has an answer") == 1


@pytest.mark.parametrize("garbage", [b"", b"x", b"\0" * 12, b"\xff" * 600])
async def test_garbage_is_as_no_answer(
    dns: NameServer,
    garbage: bytes,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hermes_lb.discovery.sources import dns_resolver

    monkeypatch.setattr(dns_resolver, "_LOOK_UP_TAKES", 0.2)
    dns.garbage = garbage
    async with looked_up(dns) as found:
        await until(lambda: found.watch.failures >= 1)
        assert f"{SRV} (SRV) can't be looked up" in caplog.text
        assert len([one for one in caplog.records if not one.message.isprintable()]) == 0


@pytest.mark.parametrize(
    ("services", "servers"),
    [
        # The lowest priority serves, the others are backups; a weight of 0 counts.
        (
            [Service(1, 0, 80, "a.test"), Service(2, 9, 80, "b.test")],
            {"a.test": (80, 1, False), "b.test": (80, 9, True)},
        ),
        # Two ports of one target are two servers; one record twice is one.
        (
            [Service(1, 1, 80, "a.test"), Service(1, 1, 81, "a.test"), Service(1, 1, 81, "a.test")],
            {"a.test-80": (80, 1, False), "a.test-81": (81, 1, False)},
        ),
        ([Service(1, 1, 80, "a.test"), Service(2, 1, 80, "a.test")], {"a.test": (80, 1, False)}),
        ([Service(1, 1, 0, "a.test")], {}),
        ([Service(1, 1, 80, "c.test")], {}),  # has no address
        ([Service(1, 1, 80, "a\\032.test")], {}),
    ],
)
def test_servers_of_records(
    services: list[Service], servers: dict[str, tuple[int, int, bool]]
) -> None:
    addresses = {"a.test": "10.0.0.1", "b.test": "10.0.0.2", "a\\032.test": "10.0.0.3"}
    found = endpoints(services, addresses)
    assert {
        name: (one.address.port, one.weight, one.is_backup) for name, one in found.items()
    } == servers


async def test_a_target_with_odd_characters_is_no_server(
    dns: NameServer, caplog: pytest.LogCaptureFixture
) -> None:
    dns.srv(SRV, (1, 1, 80, "one.agents.test"), (1, 1, 80, "x\ny.test"), (1, 1, 80, ""))
    async with looked_up(dns) as found:
        await until(lambda: found.is_at({"one.agents.test": "10.0.0.1:80"}))
        await until(lambda: "has no address" in caplog.text)
    assert all("\n" not in one.message for one in caplog.records)


def test_the_service_that_is_not_there() -> None:
    """A target "." (RFC 2782) is no target."""
    root = __import__("dns.name").name.root
    assert dns_resolver._text(root) == ""


def test_names() -> None:
    assert server_name("a" * 64) == "a" * 64
    assert server_name("") is None
    assert server_name("ä") is None
    assert name_of_address("2001:db8::1", 80) == "2001-db8--1-80"
    assert endpoints([Service(0, 5, 1, "a")], {"a": "::1"}) == {
        "a": Endpoint(Address("::1", 1), 5, server_name="a")
    }
