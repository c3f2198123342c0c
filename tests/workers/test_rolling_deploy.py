"""Two balancers in front of real workers, as a cluster has them: a rolling deploy, a scale-out and
a scale-in under load cut no stream and refuse no request."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.support.balancer_process import Running, run, until_it_listens
from tests.support.kubernetes.deployment import Deployment
from tests.support.kubernetes.server import FakeApiServer
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CLIENTS = 8
CONFIG = """
[process]
workers = {workers}
[admin]
bind = "127.0.0.1:0"
[log]
access = "off"
[[frontends]]
name = "web"
bind = "127.0.0.1:0"
default_backend = "agents"
[backends.agents]
balance = "leastconn"
[backends.agents.discovery]
kubernetes = {{ service = "agents", namespace = "default", port = "http", server = "{api}" }}
"""


class Site:
    """Two balancers, a deployment behind them, and clients."""

    def __init__(self, deployment: Deployment, balancers: list[Running], admins: list[str]) -> None:
        self.deployment = deployment
        self.balancers = balancers
        self._admins = admins
        self.client = aiohttp.ClientSession()
        self.refused: list[str] = []
        self.cut: list[str] = []
        self.whole = 0
        self.ends = False

    async def states(self, name: str) -> set[str | None]:
        """Of a server, at both balancers; None: it has none of this name."""
        found: set[str | None] = set()
        for admin in self._admins:
            async with self.client.get(f"{admin}/api/v1/servers") as response:
                servers = await response.json()
            assert all(server["source"] == "kubernetes" for server in servers)
            states = {server["name"]: server["state"] for server in servers}
            found.add(states.get(name))
        return found

    async def is_in(self, name: str, state: str | None) -> bool:
        return await self.states(name) == {state}

    async def is_waiting(self) -> bool:
        """Requests are queued at both."""
        for admin in self._admins:
            async with self.client.get(f"{admin}/api/v1/status") as response:
                [backend] = (await response.json())["backends"]
            if not backend["queued"]:
                return False
        return True

    async def pre_stop(self, name: str) -> None:
        await until(lambda: self.is_in(name, "drain"))

    async def add(self) -> str:
        name = await self.deployment.add()
        await until(lambda: self.is_in(name, "up"))
        return name

    async def remove(self, name: str) -> None:
        assert await self.deployment.remove(name, self.pre_stop) == 0
        await until(lambda: self.is_in(name, None))

    async def turn(self, url: str, words: int) -> None:
        """A stream of a turn; notes whether it came, and came whole."""
        text = " ".join(["word"] * words)
        headers = {"Accept": "text/event-stream"}
        try:
            async with self.client.post(
                f"{url}/api/agent/ephemeral", json={"content": text}, headers=headers
            ) as response:
                if response.status != 200:
                    self.refused.append(f"{response.status} {await response.text()}")
                    return
                body = await response.text()
        except aiohttp.ClientError as error:
            self.cut.append(repr(error))
            return
        if "event: done" in body:
            self.whole += 1
        else:
            self.cut.append(body[-200:])

    async def load(self, number: int) -> None:
        while not self.ends:
            await self.turn(self.balancers[number % 2].url, 20)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    redis_server = pytest.importorskip("agent_worker.redis_server")
    token = tmp_path / "token"
    token.write_text("good")
    file = tmp_path / "lb.toml"
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(redis_server.RedisServer.start())
        api = await stack.enter_async_context(FakeApiServer())
        options = ("--redis-url", redis.url, "--token-interval", "20ms")
        deployment = Deployment(api, token, *options)
        stack.push_async_callback(deployment.stop)
        balancers, admins = [], []
        for workers in (2, 1):  # one after the other: each takes seconds on a busy machine
            file.write_text(CONFIG.format(api=api.url, workers=workers))
            balancer = await stack.enter_async_context(run(file))
            await until_it_listens(balancer)
            admins.append((await balancer.says(r"admin on (http://\S+)"))[1])
            balancers.append(balancer)
        for _ in range(3):
            await deployment.add()
        found = Site(deployment, balancers, admins)
        stack.push_async_callback(found.client.close)
        yield found


async def roll_out(site: Site) -> None:
    """Each pod is replaced, two more come, and go again."""
    async with asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            clients.create_task(site.load(number))
        for old in site.deployment.pods:
            await site.add()
            await site.remove(old)
        added = [await site.add(), await site.add()]
        whole = site.whole
        await until(lambda: site.whole > whole + CLIENTS)
        for name in added:
            await site.remove(name)
        site.ends = True
    assert (site.refused, site.cut) == ([], [])
    assert site.whole > 3 * CLIENTS


async def remove_the_emptiest(site: Site) -> None:
    deployment, whole = site.deployment, site.whole
    running = dict(zip(deployment.pods, (3, 1, 2), strict=True))
    emptiest = deployment.pods[1]
    async with asyncio.TaskGroup() as clients:
        for name, count in running.items():
            for _ in range(count):
                turn = site.turn(deployment.url(name), 400)
                clients.create_task(turn)
        await until(lambda: {name: deployment.cost(name) for name in running} == running)
        assert deployment.emptiest() == emptiest
        await site.remove(emptiest)
    assert (site.refused, site.cut, site.whole - whole) == ([], [], 6)


async def wait_for_a_pod(site: Site) -> None:
    """After a scale-in to zero requests wait in the queue."""
    whole = site.whole
    for name in site.deployment.pods:
        # The last one stays for a while, draining, as an empty answer has no effect at once.
        assert await site.deployment.remove(name, site.pre_stop) == 0
    async with asyncio.TaskGroup() as clients:
        for balancer in site.balancers:
            clients.create_task(site.turn(balancer.url, 3))
        await until(site.is_waiting)
        await site.deployment.add()
    assert (site.refused, site.cut, site.whole - whole) == ([], [], 2)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_no_stream_is_cut_and_no_request_refused(site: Site) -> None:
    """In one test, as the start of the processes takes most of the time."""
    await roll_out(site)
    await remove_the_emptiest(site)
    await wait_for_a_pod(site)
