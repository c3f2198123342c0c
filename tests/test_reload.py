"""A hundred reloads under load, without a failed request."""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from hermes_lb.tasks import Tasks
from tests.support.balancer_process import reserved_port, run, until_it_listens
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from random import Random

RELOADS = 100
STREAMS = 50
TUNNELS = 20
SERVERS = 5

BALANCES = (
    "round_robin", "leastconn", "ip_hash", "random", "consistent_hash", "maglev", "p2c",
    "peak_ewma", "prequal", "least_load",
)  # fmt: skip


ANOTHER = "another"  # a frontend


class Servers:
    """The servers behind: a page, a stream that counts, a tunnel that echoes."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.streams_end = asyncio.Event()

    async def page(self, request: web.Request) -> web.Response:
        return web.Response(text="page")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        count = 0
        while not self.streams_end.is_set():
            await response.write(b"data: %d\n\n" % count)
            count += 1
            await asyncio.sleep(0.05)
        await response.write(b"data: end\n\n")
        return response

    async def tunnel(self, request: web.Request) -> web.WebSocketResponse:
        tunnel = web.WebSocketResponse()
        await tunnel.prepare(request)
        async for message in tunnel:
            await tunnel.send_str(message.data)
        return tunnel


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    behind = Servers()
    async with AsyncExitStack() as stack:
        for _ in range(SERVERS):
            application = web.Application()
            application.router.add_get("/page", behind.page)
            application.router.add_get("/stream", behind.stream)
            application.router.add_get("/tunnel", behind.tunnel)
            runner = web.AppRunner(application, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            behind.ports.append(runner.addresses[0][1])
        yield behind


def configuration(servers: Servers, another: int, rng: Random, *, is_first: bool = False) -> str:
    """Any of many: servers come, go and change their weights; so do all the rules.

    `another`: the port of a listener that comes and goes.
    """
    chosen = rng.sample(range(SERVERS), rng.randint(2, SERVERS))
    lines = [
        "[process]\nworkers = 2\nmax_connections = 1000\n[admin]\nenabled = false",
        '[log]\naccess = "off"',
        f'[timeouts]\nserver = "{rng.randint(30, 90)}s"\nclient = "{rng.randint(30, 90)}s"',
        f"[limits]\nheader_count = {rng.randint(50, 100)}",
        '[[frontends]]\nname = "public"\nbind = "127.0.0.1:0"\ndefault_backend = "agents"',
    ]
    if rng.random() < 0.5:
        lines.append(
            '[[frontends.routes]]\npath = "/page"\nbackend = "agents"\n'
            f"access_log = {rng.choice(['true', 'false'])}"
        )
    if rng.random() < 0.5 and not is_first:
        lines.append(
            f'[[frontends]]\nname = "{ANOTHER}"\nbind = "127.0.0.1:{another}"\n'
            'default_backend = "agents"'
        )
    lines.append(f'[backends.agents]\nbalance = "{rng.choice(BALANCES)}"')
    if rng.random() < 0.5:
        lines.append('affinity = { cookie = "SERVERID" }')
    lines += [
        f'[[backends.agents.servers]]\nname = "agent{number}"\n'
        f'address = "127.0.0.1:{servers.ports[number]}"\nweight = {rng.randint(1, 9)}\n'
        f"max_connections = {rng.choice([0, 0, 500])}"
        for number in chosen
    ]
    return "\n".join(lines) + "\n"


class Load:
    """Clients that must not notice anything."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.pages = 0
        self.is_over = False

    async def read_pages(self, *, keep_alive: bool) -> None:
        connector = aiohttp.TCPConnector(force_close=not keep_alive)
        async with aiohttp.ClientSession(connector=connector) as session:
            while not self.is_over:
                async with session.get(f"{self._url}/page") as response:
                    assert response.status == 200, await response.text()
                    assert await response.text() == "page"
                self.pages += 1
                await asyncio.sleep(0.002)

    async def check_another(self, port: int, *, is_there: bool) -> None:
        """A listener that has just come serves at once; one that has gone refuses, soon."""
        if is_there:
            assert await self._answers_at(port)
            return
        async with asyncio.timeout(PATIENCE):
            while await self._answers_at(port):
                pass

    async def _answers_at(self, port: int) -> bool:
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            try:
                async with session.get(f"http://127.0.0.1:{port}/page") as response:
                    return (response.status, await response.text()) == (200, "page")
            except aiohttp.ClientError:
                return False

    async def follow_stream(self, session: aiohttp.ClientSession) -> int:
        """-> how many events it had; each came once, in order, and the last one too."""
        async with session.get(f"{self._url}/stream") as response:
            assert response.status == 200
            events = (await response.read()).decode().split()[1::2]
        assert events == [*map(str, range(len(events) - 1)), "end"]
        return len(events)

    async def keep_tunnel(self, session: aiohttp.ClientSession) -> int:
        """-> how many messages came back."""
        count = 0
        async with session.ws_connect(f"{self._url}/tunnel") as tunnel:
            while not self.is_over:
                await tunnel.send_str(str(count))
                assert await tunnel.receive_str() == str(count)
                count += 1
                await asyncio.sleep(0.05)
        return count


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_hundred_reloads_under_load_fail_nothing_and_cut_nothing(
    tmp_path: Path, servers: Servers
) -> None:
    rng = random.Random(20261125)
    file = tmp_path / "lb.toml"
    async with AsyncExitStack() as stack:
        another = stack.enter_context(reserved_port())
        file.write_text(configuration(servers, another, rng, is_first=True))
        running = await stack.enter_async_context(run(file))
        await until_it_listens(running)
        workers, all_said, comings = sorted(running.workers), "", 0
        load, tasks = Load(running.url), Tasks()
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=PATIENCE)
        session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        await stack.enter_async_context(session)
        streams = [tasks.spawn(load.follow_stream(session), name="stream") for _ in range(STREAMS)]
        tunnels = [tasks.spawn(load.keep_tunnel(session), name="tunnel") for _ in range(TUNNELS)]
        readers = [
            tasks.spawn(load.read_pages(keep_alive=n % 2 == 0), name="pages") for n in range(4)
        ]
        for number in range(RELOADS):
            seen = load.pages
            text = configuration(servers, another, rng)
            file.write_text(text)
            all_said, running.said = all_said + running.said, ""
            running.signal(signal.SIGHUP)
            said = await running.says(r"(not reloaded|reloaded)")
            assert said[1] == "reloaded", (number, running.said)
            is_there = ANOTHER in text
            comings += is_there
            await load.check_another(another, is_there=is_there)
            async with asyncio.timeout(PATIENCE):
                while load.pages < seen + 4:
                    await asyncio.sleep(0.001)
                    assert not any(task.done() for task in (*readers, *streams, *tunnels))
        load.is_over = True
        servers.streams_end.set()
        await asyncio.gather(*readers)
        events = await asyncio.gather(*streams)
        messages = await asyncio.gather(*tunnels)
        assert sorted(running.workers) == workers  # reloaded in place, and not replaced
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
        all_said += running.said
    assert 0 < comings < RELOADS
    assert load.pages > 4 * RELOADS
    # How many there were is a matter of speed; each lasted until `is_over`.
    assert min(events) > 1
    assert min(messages) > 1
    for trouble in ("Traceback", "can't be reconfigured", "another one starts"):
        assert trouble not in all_said
