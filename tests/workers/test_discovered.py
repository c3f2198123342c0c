"""Discovered servers with several processes: all have the same ones, also those that start later,
and an upgrade hands them over."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.support.waiting import until
from tests.workers.processes import serving

if TYPE_CHECKING:
    from tests.support.balancer_process import Running
    from tests.workers.processes import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

CONFIG = """
[process]
workers = 2
[admin]
bind = "127.0.0.1:0"
[log]
access = "off"
[timeouts]
queue = "2m"
[[frontends]]
name = "web"
bind = "127.0.0.1:0"
default_backend = "agents"
[backends.agents]
balance = "leastconn"
[backends.agents.affinity]
cookie = "SRV"
[backends.agents.discovery]
file = {{ path = "{file}", interval = "20ms" }}
defaults = {{ max_connections = 1 }}
"""


class Found:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.file = site.folder / "servers.json"
        self.config = site.folder / "found.toml"
        self.config.write_text(CONFIG.format(file=self.file))

    def say(self, **places: int) -> None:
        """The servers: by name, the number of their port."""
        groups = [
            {"targets": [f"127.0.0.1:{self.site.workers[place].port}"], "labels": {"name": name}}
            for name, place in places.items()
        ]
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(groups))
        new.replace(self.file)

    async def servers(self, api: str) -> dict[str, dict[str, Any]]:
        async with self.site.client.get(f"{api}/servers") as response:
            return {server["name"]: server for server in await response.json()}

    async def is_in(self, api: str, *names: str) -> bool:
        return set(await self.servers(api)) == set(names)

    async def everywhere(self, running: Running, cookie: str) -> set[int]:
        """The ports that answer a cookie on many connections, which all workers get."""
        ports = set()
        for _ in range(12):
            async with (
                aiohttp.ClientSession(cookies={"SRV": cookie}) as client,
                client.get(running.url) as response,
            ):
                assert response.status == 200
                ports.add(int(await response.text()))
        return ports


@pytest.fixture
def found(site: Site) -> Found:
    return Found(site)


async def test_all_workers_have_the_same_servers(found: Found) -> None:
    ports = [worker.port for worker in found.site.workers]
    found.say(one=0, two=1)
    async with serving(found.config) as (running, api):
        assert await found.everywhere(running, "one") == {ports[0]}
        assert await found.everywhere(running, "two") == {ports[1]}
        await until(lambda: has_answered(found, api, 12))
        found.say(one=1, two=0)  # both move; their names stay
        await until(lambda: is_at(found, api, ports[1]))
        assert await found.everywhere(running, "one") == {ports[1]}
        assert await found.everywhere(running, "two") == {ports[0]}
        await until(lambda: has_answered(found, api, 24))

        os.kill(running.workers[0], signal.SIGKILL)
        await running.says("another one starts")
        await until(lambda: len(running.workers) == 2)
        assert await found.everywhere(running, "one") == {ports[1]}

        old = set(running.workers)
        running.signal(signal.SIGUSR2)
        await until(lambda: len(running.workers) == 2 and old.isdisjoint(running.workers))
        assert await found.everywhere(running, "one") == {ports[1]}
        found.say(one=0)
        await until(lambda: found.is_in(api, "one"))
        assert await found.everywhere(running, "two") == {ports[0]}  # of one that is left


async def has_answered(found: Found, api: str, count: int) -> bool:
    """The counters of a server go on at another address."""
    server = (await found.servers(api))["one"]
    return bool(server["counters"]["responses"]["2xx"] == count)


async def is_at(found: Found, api: str, port: int) -> bool:
    return bool((await found.servers(api))["one"]["address"] == f"127.0.0.1:{port}")


async def test_limits_of_new_servers_hold_over_all_workers(found: Found) -> None:
    """Rows of the shared memory are given and taken while requests run."""
    workers = found.site.workers
    found.say(one=0)
    async with serving(found.config) as (running, api):
        for names in ({"one": 0, "two": 1}, {"two": 1}, {"two": 1, "three": 0}):
            found.say(**names)
            await until(lambda names=names: found.is_in(api, *names))  # type: ignore[misc]
        async with aiohttp.ClientSession() as client:
            asked = [await client.get(f"{running.url}/stream") for _ in range(2)]
            assert [worker.running for worker in workers] == [1, 1]
            for worker in workers:
                worker.go_on.set()
            for response in asked:
                assert await response.text() == "begun ended"
        assert [worker.most for worker in workers] == [1, 1]
