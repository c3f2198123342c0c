"""A host name that stands for several servers, in a running balancer."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from hermes_lb import LoadBalancer
from hermes_lb.discovery.sources import resolve
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class Fleet:
    """A server at each address, all on one port, and a name service that says who there is."""

    def __init__(self) -> None:
        self.port = 0
        self.known: list[str] = ["127.0.0.1", "127.0.0.2"]
        self.is_broken = False
        self.stream_ends = asyncio.Event()

    async def look_up(self, host: str) -> list[str]:
        assert host == "agents.test"
        if self.is_broken:
            raise OSError(None, "the resolver is broken")
        return list(self.known)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        address = request.transport.get_extra_info("sockname")[0]  # type: ignore[union-attr]
        if request.path != "/stream":
            return web.Response(text=address)
        response = web.StreamResponse(headers={"X-Address": address})
        await response.prepare(request)
        await self.stream_ends.wait()
        await response.write(b"end")
        return response


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    fleet = Fleet()
    application = web.Application()
    application.router.add_get("/{path:.*}", fleet.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    for address in ADDRESSES:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, fleet.port))
        fleet.port = sock.getsockname()[1]
        await web.SockSite(runner, sock).start()
    yield fleet
    await runner.cleanup()


@pytest.fixture
async def balancer(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LoadBalancer]:
    server = {"name": "agent", "address": f"agents.test:{fleet.port}", "resolve": "10ms"}
    lb = LoadBalancer(
        {
            "process": {"state_file": str(tmp_path / "state")},
            "admin": {"enabled": False},
            "log": {"access": "off"},
            "frontends": [{"name": "f", "bind": "127.0.0.1:0", "default_backend": "agents"}],
            "backends": {"agents": {"servers": [server]}},
        }
    )
    monkeypatch.setattr(resolve, "system_lookup", fleet.look_up)
    async with lb:
        yield lb


def names(lb: LoadBalancer) -> set[str]:
    return {server.name for server in lb.pools["agents"].servers}


async def who_serves(lb: LoadBalancer, times: int = 12) -> set[str]:
    async with aiohttp.ClientSession() as session:
        found = set()
        for _ in range(times):
            async with session.get(lb.url) as response:
                assert response.status == 200
                found.add(await response.text())
        return found


async def test_each_address_is_a_server(balancer: LoadBalancer) -> None:
    assert names(balancer) == {"agent-127.0.0.1", "agent-127.0.0.2"}
    assert await who_serves(balancer) == {"127.0.0.1", "127.0.0.2"}


async def test_a_new_address_gets_requests(balancer: LoadBalancer, fleet: Fleet) -> None:
    kept = balancer.pools["agents"].servers[0]
    fleet.known = list(ADDRESSES)
    await eventually(lambda: len(names(balancer)) == 3)
    assert await who_serves(balancer) == set(ADDRESSES)
    assert balancer.pools["agents"].servers[0] is kept


async def test_an_address_that_is_gone_gets_none_and_its_streams_go_on(
    balancer: LoadBalancer, fleet: Fleet
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{balancer.url}/stream") as response,
    ):
        address = response.headers["X-Address"]
        other = ({"127.0.0.1", "127.0.0.2"} - {address}).pop()
        fleet.known = [other]
        await eventually(lambda: names(balancer) == {f"agent-{other}"})
        assert await who_serves(balancer) == {other}
        fleet.stream_ends.set()
        assert await response.read() == b"end"


async def test_what_an_operator_has_set_on_an_address_holds_when_it_comes_back(
    balancer: LoadBalancer, fleet: Fleet
) -> None:
    balancer.set_state("agents", "agent-127.0.0.2", "drain")
    balancer.set_weight("agents", "agent-127.0.0.1", 7)
    fleet.known = ["127.0.0.3"]
    await eventually(lambda: names(balancer) == {"agent-127.0.0.3"})
    assert await who_serves(balancer) == {"127.0.0.3"}
    fleet.known = ["127.0.0.1", "127.0.0.2"]
    await eventually(lambda: names(balancer) == {"agent-127.0.0.1", "agent-127.0.0.2"})
    assert await who_serves(balancer) == {"127.0.0.1"}
    assert [s.full_weight for s in balancer.pools["agents"].servers] == [7, 1]


async def test_a_limit_that_an_operator_has_set_holds_until_the_file_is_newer(
    balancer: LoadBalancer, fleet: Fleet
) -> None:
    pool, place = balancer.pools["agents"], 'backends.agents.servers."agent-127.0.0.1"'

    async def set_limit(value: int) -> None:
        server = pool.find("agent-127.0.0.1")
        assert server is not None
        changed = {"max_connections": value}
        await balancer.change_servers(lambda r: r.with_changed("agents", server.config, changed))

    def limits() -> dict[str, int]:
        return {server.name: server.max_connections for server in pool.servers}

    def origins() -> set[str]:
        rows = [row for row in balancer.settings() if row["key"].startswith(f"{place}.max_c")]
        return {row["origin"] for row in rows}

    assert origins() == {"discovery"}
    await set_limit(3)
    assert limits() == {"agent-127.0.0.1": 3, "agent-127.0.0.2": 0}
    assert origins() == {"runtime"}
    with pytest.raises(ValueError, match="max_connections"):
        await set_limit(-1)
    fleet.known = ["127.0.0.2"]
    await eventually(lambda: len(names(balancer)) == 1)
    assert origins() == set()
    fleet.known = ["127.0.0.1", "127.0.0.2"]
    await eventually(lambda: len(names(balancer)) == 2)
    assert limits() == {"agent-127.0.0.1": 3, "agent-127.0.0.2": 0}
    written = balancer.config.model_dump(mode="json")
    await balancer.reconfigure(written)
    assert limits() == {"agent-127.0.0.1": 3, "agent-127.0.0.2": 0}
    written["backends"]["agents"]["servers"][0]["max_connections"] = 9
    await balancer.reconfigure(written)
    assert limits() == {"agent-127.0.0.1": 9, "agent-127.0.0.2": 9}
    assert origins() == {"discovery"}


async def test_a_reload_that_is_refused_leaves_the_servers_of_before(
    balancer: LoadBalancer, fleet: Fleet
) -> None:
    written = balancer.config.model_dump(mode="json")
    [server] = written["backends"]["agents"]["servers"]
    server["name"] = "other"
    fleet.known = list(ADDRESSES)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        written["frontends"][0]["bind"] = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match="in use"):
            await balancer.reconfigure(written)
    await eventually(lambda: len(names(balancer)) == 3)
    assert await who_serves(balancer) == set(ADDRESSES)


async def test_a_broken_resolver_changes_nothing_and_is_counted(
    balancer: LoadBalancer, fleet: Fleet
) -> None:
    fleet.is_broken = True
    await eventually(lambda: balancer.observed.upkeep.dns_failures.get("agents", 0) >= 3)
    assert await who_serves(balancer) == {"127.0.0.1", "127.0.0.2"}
