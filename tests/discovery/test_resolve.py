"""Host names with several addresses: which servers they make, and when one goes."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.backends import Pool
from hermes_lb.config import Backend
from hermes_lb.config import Server as ConfiguredServer
from hermes_lb.discovery import watch as watch_module
from hermes_lb.discovery.discoveries import Discoveries
from hermes_lb.discovery.sources import resolve as resolve_module
from hermes_lb.discovery.sources.addresses import GONE_AFTER, MOST_ADDRESSES, Known
from tests.discovery.resolved import expand

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from hermes_lb.backends.options import DiscoveredServer
    from hermes_lb.discovery.watch import Delta

POD = {"name": "pod", "address": "pods.internal:8000", "resolve": "1ms"}


def a_server(**keys: Any) -> ConfiguredServer:
    return ConfiguredServer.model_validate({**POD, **keys})


def names(servers: Iterable[DiscoveredServer]) -> list[str]:
    return [server.name for server in servers]


# What an answer makes.


def test_each_address_is_a_server_with_all_that_is_set() -> None:
    server = a_server(weight=3, max_connections=7, cookie="p")
    one, two = expand(server, None, ["10.0.0.5", "2001:db8::1"])
    assert (one.name, str(one.address), one.cookie) == (
        "pod-10.0.0.5",
        "10.0.0.5:8000",
        "p-10.0.0.5",
    )
    assert (two.name, str(two.address)) == ("pod-2001-db8--1", "[2001:db8::1]:8000")
    assert {s.weight for s in (one, two)} == {3}
    assert {s.max_connections for s in (one, two)} == {7}
    assert one.resolve is None


def test_certificates_are_checked_for_the_name_and_not_for_the_address() -> None:
    tls = Backend.model_validate({"tls": {"server_name": "all.internal"}, "servers": [POD]}).tls
    assert expand(a_server(), None, ["10.0.0.5"])[0].server_name == "pods.internal"
    assert expand(a_server(), tls, ["10.0.0.5"])[0].server_name == "all.internal"
    own = a_server(server_name="own.internal")
    assert expand(own, tls, ["10.0.0.5"])[0].server_name == "own.internal"


def test_an_expanded_server_can_be_sent_to_another_process() -> None:
    (server,) = expand(a_server(name="p" * 24), None, ["2001:db8:1111:2222:3333:4444:5555:6666"])
    assert type(server).model_validate(server.model_dump(mode="json")) == server


def test_before_there_is_an_answer_the_server_stands_as_it_is() -> None:
    server = a_server(server_name="own.internal", cookie="p")
    [found] = expand(server, None, [])
    assert found.model_dump(include=set(ConfiguredServer.model_fields)) == server.model_dump()


ADDRESSES = st.lists(st.ip_addresses().map(str), unique=True, min_size=1, max_size=8)


@given(ADDRESSES, st.randoms(use_true_random=False))
def test_the_order_of_an_answer_means_nothing(addresses: list[str], rng: random.Random) -> None:
    known = Known()
    assert known.answered(addresses)
    before = expand(a_server(), None, known.addresses)
    rng.shuffle(addresses)
    assert not known.answered(addresses)
    assert expand(a_server(), None, known.addresses) == before
    assert len(set(names(before))) == len(addresses)


def test_an_address_goes_when_several_answers_in_a_row_lack_it() -> None:
    known = Known()
    known.answered(["10.0.0.1", "10.0.0.2"])
    for _ in range(GONE_AFTER - 1):
        assert not known.answered(["10.0.0.2"])
    assert not known.answered(["10.0.0.1", "10.0.0.2"])  # and it restarts the count
    for _ in range(GONE_AFTER - 1):
        assert not known.answered(["10.0.0.2"])
    assert known.answered(["10.0.0.2"])
    assert known.addresses == ("10.0.0.2",)


def test_an_answer_of_thousands_is_cut() -> None:
    known = Known()
    known.answered(f"10.0.{n // 250}.{n % 250}" for n in range(3000))
    assert len(known.addresses) == MOST_ADDRESSES


# The loop.


class Names:
    """A lookup by hand, and a pool; `changes` are those that were reported."""

    def __init__(self, *servers: dict[str, Any], **backend: Any) -> None:
        self.addresses: dict[str, list[str] | OSError] = {}
        self.changes: asyncio.Queue[tuple[str, list[str]]] = asyncio.Queue()
        self.lookups = 0
        configured = Backend.model_validate({"servers": list(servers), **backend})
        self.pool = Pool("backend0", configured)
        self.discoveries = Discoveries({"backend0": configured}, self.hear, rng=random.Random(1))

    def hear(self, backend: str, delta: Delta) -> None:
        self.pool.discover(delta.servers, delta.gone)
        self.changes.put_nowait((backend, self.now()))

    async def start(self) -> None:
        await self.discoveries.start()
        self.pool.discover(self.discoveries.servers("backend0").values(), [])

    async def reload(self, *servers: dict[str, Any]) -> None:
        configured = Backend.model_validate({"servers": list(servers)})
        await self.discoveries.reconfigure({"backend0": configured})
        self.pool.reconfigure(configured)
        self.pool.discover(self.discoveries.servers("backend0").values(), [])

    async def look_up(self, host: str) -> list[str]:
        self.lookups += 1
        await asyncio.sleep(0)
        found = self.addresses.get(host, OSError("Name or service not known"))
        if isinstance(found, OSError):
            raise found
        return found

    def now(self) -> list[str]:
        return [server.name for server in self.pool.servers]

    def at(self) -> dict[str, str]:
        return {server.name: str(server.config.address) for server in self.pool.servers}

    async def changed(self) -> tuple[str, list[str]]:
        async with asyncio.timeout(20):
            return await self.changes.get()

    async def look_up_again(self, times: int = 3) -> None:
        until = self.lookups + times
        async with asyncio.timeout(20):
            while self.lookups < until:  # noqa: ASYNC110 - the look-ups have their own pace
                await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer is a change of its own."""
    monkeypatch.setattr(watch_module, "_SETTLES", 0.0)
    monkeypatch.setattr(watch_module, "_SETTLES_PER_SERVER", 0.0)


@asynccontextmanager
async def resolving(
    *servers: dict[str, Any], found: dict[str, list[str]] | None = None, **backend: Any
) -> AsyncIterator[Names]:
    there = Names(*servers, **backend)
    there.addresses.update(found or {})
    with patch.object(resolve_module, "system_lookup", there.look_up):
        await there.start()
        try:
            yield there
        finally:
            await there.discoveries.stop()


FIXED = {"name": "fixed", "address": "10.0.0.9:8000"}


async def test_at_the_start_the_servers_are_there_without_a_notification() -> None:
    addresses = {"pods.internal": ["10.0.0.2", "10.0.0.1"]}
    async with resolving(FIXED, POD, found=addresses) as found:
        assert found.now() == ["fixed", "pod-10.0.0.1", "pod-10.0.0.2"]
        assert found.changes.empty()


async def test_a_new_address_is_reported_at_once_and_a_gone_one_later() -> None:
    async with resolving(POD, found={"pods.internal": ["10.0.0.1"]}) as found:
        found.addresses["pods.internal"] = ["10.0.0.2"]
        assert await found.changed() == ("backend0", ["pod-10.0.0.1", "pod-10.0.0.2"])
        assert await found.changed() == ("backend0", ["pod-10.0.0.2"])
        await found.look_up_again()
        assert found.changes.empty()


async def test_a_resolver_that_fails_leaves_the_servers_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "hermes_lb.discovery")
    async with resolving(POD, found={"pods.internal": ["10.0.0.1"]}) as found:
        found.addresses["pods.internal"] = OSError(-3, "Temporary failure in name resolution")
        await found.look_up_again(2 * GONE_AFTER)
        assert found.now() == ["pod-10.0.0.1"]
        found.addresses["pods.internal"] = []
        await found.look_up_again(2 * GONE_AFTER)
        assert found.now() == ["pod-10.0.0.1"]
    failures = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in failures] == [
        "backend0/pod: discovery by resolve: pods.internal can't be looked up: "
        "Temporary failure in name resolution; the last 1 servers stay"
    ]


async def test_a_name_that_nobody_knows_yet_is_found_later() -> None:
    async with resolving(POD) as found:
        assert found.now() == ["pod"]
        found.addresses["pods.internal"] = ["10.0.0.1"]
        assert await found.changed() == ("backend0", ["pod-10.0.0.1"])


async def test_a_server_of_the_file_keeps_its_name() -> None:
    taken = {"name": "pod-10.0.0.1", "address": "10.0.0.77:8000"}
    async with resolving(POD, taken, found={"pods.internal": ["10.0.0.1", "10.0.0.2"]}) as found:
        assert found.at() == {
            "pod-10.0.0.1": "10.0.0.77:8000",
            "pod-10.0.0.2": "10.0.0.2:8000",
        }


async def test_a_reload_keeps_what_is_known_and_looks_up_what_is_new() -> None:
    async with resolving(POD, found={"pods.internal": ["10.0.0.1"]}) as found:
        found.addresses["pods.internal"] = OSError("the resolver is away")
        found.addresses["more.internal"] = ["10.1.0.1"]
        more = {"name": "more", "address": "more.internal:80", "resolve": "1h"}
        await found.reload({**POD, "weight": 9}, more)
        assert found.now() == ["pod-10.0.0.1", "more-10.1.0.1"]
        assert found.pool.servers[0].config.weight == 9


async def test_the_next_image_begins_with_what_was_known() -> None:
    """As far as it has the same names; its look-ups are not answered."""
    other = {"name": "other", "address": "other.internal:80", "resolve": 1.0}
    found = {"pods.internal": ["10.0.0.1", "::1"], "other.internal": ["10.1.0.1"]}
    async with resolving(POD, other, found=found) as before:
        left = json.loads(json.dumps(before.discoveries.state))
    moved = other | {"address": "moved.internal:80"}
    after = Names(POD, moved, FIXED)
    after.discoveries.restore(left)
    with patch.object(resolve_module, "system_lookup", after.look_up):
        await after.start()
        assert after.now() == ["fixed", "pod-10.0.0.1", "pod---1", "other"]
        await after.discoveries.stop()


@pytest.mark.parametrize("port", [8000, 9000])
async def test_after_a_reload_an_address_is_missed_as_often_as_before(port: int) -> None:
    known = {"pods.internal": ["10.0.0.1", "10.0.0.2"]}
    async with resolving(POD, found=known) as found:
        found.addresses["pods.internal"] = ["10.0.0.2"]
        before = found.lookups
        await found.reload({**POD, "address": f"pods.internal:{port}", "weight": 2})
        assert found.at() == {
            "pod-10.0.0.1": f"10.0.0.1:{port}", "pod-10.0.0.2": f"10.0.0.2:{port}",
        }  # fmt: skip
        while len(found.now()) > 1:
            await found.changed()
        assert found.lookups - before >= GONE_AFTER


async def test_names_of_one_backend_are_counted_together() -> None:
    more = {"name": "more", "address": "more.internal:80", "resolve": "1h"}
    async with resolving(POD, more, found={"pods.internal": ["10.0.0.1", "10.0.0.2"]}) as found:
        [view] = found.discoveries.views()
        assert (view.backend, view.kind, view.servers) == ("backend0", "resolve", 3)
        assert (view.failures, view.last_success) == (1, 0.0)  # of one of them
        assert [
            (row["server"], row["addresses"], row["is_failing"], row["failures"])
            for row in found.discoveries.resolvers()
        ] == [("pod", ["10.0.0.1", "10.0.0.2"], False, 1), ("more", [], True, 1)]


async def test_a_name_that_two_have_is_that_of_the_first(tmp_path: Path) -> None:
    def say(address: str) -> dict[str, Any]:
        file = tmp_path / "servers.json"
        group = {"targets": [address], "labels": {"name": "pod-10.0.0.1"}}
        file.with_suffix(".new").write_text(json.dumps([group]))
        file.with_suffix(".new").replace(file)
        return {"file": {"path": str(file), "interval": "1ms"}}

    known = {"pods.internal": ["10.0.0.1", "10.0.0.2"]}
    async with resolving(POD, found=known, discovery=say("10.9.9.9:1")) as found:
        both = {"pod-10.0.0.1": "10.0.0.1:8000", "pod-10.0.0.2": "10.0.0.2:8000"}
        assert found.at() == both
        say("10.8.8.8:1")
        await found.changed()
        assert found.at() == both
        found.addresses["pods.internal"] = ["10.0.0.2"]
        await found.changed()
        assert found.at() == both | {"pod-10.0.0.1": "10.8.8.8:1"}


async def test_without_names_nothing_runs() -> None:
    async with resolving(FIXED) as found:
        assert found.now() == ["fixed"]
        assert found.lookups == 0
