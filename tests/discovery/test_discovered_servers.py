"""Discovered servers in a running balancer: identity by name, drain, and requests that wait."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from hermes_lb import LoadBalancer
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Place:
    """A server, and the file that says where servers are."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.ports: list[int] = []
        self.go_on = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        port = request.transport.get_extra_info("sockname")[1]  # type: ignore[union-attr]
        if request.path != "/stream":
            return web.Response(text=str(port))
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun ")
        await self.go_on.wait()
        await response.write(b"ended")
        return response

    def say(self, *servers: tuple[str, int], **labels: Any) -> None:
        """Names, and the numbers of their ports."""
        groups = [
            {"targets": [f"127.0.0.1:{self.ports[place]}"], "labels": {"name": name, **labels}}
            for name, place in servers
        ]
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(groups))
        new.replace(self.file)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    found = Place(tmp_path / "servers.json")
    app = web.Application()
    app.router.add_get("/{path:.*}", found.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    for _ in range(3):
        await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.ports = [address[1] for address in runner.addresses]
    yield found
    found.go_on.set()
    await runner.cleanup()


def configured(place: Place, **backend: Any) -> dict[str, Any]:
    discovery = {"file": {"path": str(place.file), "interval": "10ms"}, "empty_after": "50ms"}
    return {
        "admin": {"bind": "127.0.0.1:0"},
        "log": {"access": "off"},
        "frontends": [{"name": "web", "bind": "127.0.0.1:0", "default_backend": "a"}],
        "backends": {"a": {"discovery": discovery, **backend}},
    }


def states(lb: LoadBalancer) -> dict[str, str]:
    return {server.name: server.state for server in lb.pools["a"].servers}


async def test_identity_is_the_name(place: Place) -> None:
    place.say(("one", 0), ("two", 1))
    config = configured(place, affinity={"cookie": "SRV"})
    async with LoadBalancer(config) as lb, aiohttp.ClientSession() as client:
        async with client.get(lb.url) as response:
            port = int(await response.text())
        name = ("one", "two")[place.ports.index(port)]
        server = lb.pools["a"].find(name)
        assert server is not None
        server.set_weight(5)
        server.fails = 3
        place.say((name, 2), ("other", 0))
        await until(lambda: set(states(lb)) == {name, "other"})
        assert lb.pools["a"].find(name) is server
        async with client.get(lb.url) as response:  # by its cookie, at the new address
            assert int(await response.text()) == place.ports[2]
        assert server.counters.responses[2] == 2
        assert (server.operator_weight, server.fails) == (5, 0)


async def test_a_server_that_leaves_drains_and_its_stream_ends_by_itself(place: Place) -> None:
    place.say(("one", 0))
    async with LoadBalancer(configured(place)) as lb, aiohttp.ClientSession() as client:
        async with client.get(f"{lb.url}/stream") as stream:
            assert await stream.content.readany() == b"begun "
            place.say(("one", 0), drain="true")
            await until(lambda: states(lb) == {"one": "drain"})
            place.say(("two", 1))
            await until(lambda: states(lb) == {"two": "up"})
            async with client.get(lb.url) as response:
                assert int(await response.text()) == place.ports[1]
            place.go_on.set()
            assert await stream.content.read() == b"ended"
        backend = lb._plane.backends["a"]
        place.say(("three", 2))  # what has ended is forgotten with the next change
        await until(lambda: set(states(lb)) == {"three"})
        assert {server.name for server in backend.connections} == {"three"}


@pytest.mark.parametrize("before", ["no file", "empty", "drain"])
async def test_requests_wait_for_a_server(place: Place, before: str) -> None:
    if before == "empty":
        place.say()
    elif before == "drain":
        place.say(("one", 0), drain="true")
    async with LoadBalancer(configured(place)) as lb, aiohttp.ClientSession() as client:

        async def get() -> tuple[int, str]:
            async with client.get(lb.url) as response:
                return response.status, await response.text()

        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(get())
            await until(lambda: lb.pools["a"].queue_length == 1)
            place.say(("two", 1))
        assert asked.result() == (200, str(place.ports[1]))


async def test_down_servers_are_not_waited_for(place: Place) -> None:
    place.say(("one", 0))
    async with LoadBalancer(configured(place)) as lb, aiohttp.ClientSession() as client:
        lb.set_state("a", "one", "maint")
        async with client.get(lb.url) as response:
            assert response.status == 503


async def test_a_reload_keeps_discovered_servers(place: Place) -> None:
    place.say(("one", 0))
    async with LoadBalancer(configured(place)) as lb:
        server = lb.pools["a"].find("one")
        await lb.reconfigure(configured(place, balance="leastconn"))
        assert lb.pools["a"].find("one") is server
        fixed = {"servers": [{"name": "one", "address": f"127.0.0.1:{place.ports[1]}"}]}
        await lb.reconfigure(configured(place, **fixed))
        assert [s.config.source for s in lb.pools["a"].servers] == ["config"]  # it has the name
        await lb.reconfigure(configured(place))
        assert [s.config.source for s in lb.pools["a"].servers] == ["file"]


async def test_checks_follow(place: Place) -> None:
    place.say(("one", 0))
    health = {"path": "/", "interval": "20ms", "start": "down", "rise": 1}
    async with LoadBalancer(configured(place, health=health)) as lb:
        await until(lambda: states(lb) == {"one": "up"})
        place.say(("one", 1), ("two", 2))
        await until(lambda: states(lb) == {"one": "up", "two": "up"})
        assert lb._checks is not None
        assert len(lb._checks._targets) == len(lb._checks._watches) == 2
        place.say(("two", 2))
        await until(lambda: states(lb) == {"two": "up"})
        assert len(lb._checks._targets) == len(lb._checks._watches) == 1


async def test_the_operators_settings_wait_for_a_server_to_return(
    place: Place, tmp_path: Path
) -> None:
    place.say(("one", 0), ("two", 1))
    config = configured(place)
    config["process"] = {"state_file": str(tmp_path / "state.json")}
    async with LoadBalancer(config) as lb:
        lb.set_state("a", "two", "drain")
        await asyncio.sleep(0)  # its entry is made in the next iteration
        place.say(("one", 0))
        await until(lambda: set(states(lb)) == {"one"})
        place.say(("one", 0), ("two", 2))  # at another address
        await until(lambda: set(states(lb)) == {"one", "two"})
        assert states(lb)["two"] == "drain"
    place.say(("one", 0))
    async with LoadBalancer(config) as lb:  # a restart, and it comes later
        place.say(("one", 0), ("two", 0))
        await until(lambda: set(states(lb)) == {"one", "two"})
        assert states(lb)["two"] == "drain"
