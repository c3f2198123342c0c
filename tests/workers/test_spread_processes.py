"""Connections are spread evenly over real workers, and none is lost on its way to another one."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from hermes_lb.tasks import Tasks
from tests.support.balancer_process import Running, run
from tests.support.waiting import until
from tests.workers.processes import becomes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.workers.processes import Site

pytestmark = pytest.mark.slow

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


class Client:
    """A kept connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def ask(self) -> None:
        """One request. Fails if the connection was lost."""
        self.writer.write(GET)
        await self.is_answered()

    async def is_answered(self) -> None:
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        [length] = [line for line in head.split(b"\r\n") if line.startswith(b"Content-Length")]
        await self._reader.readexactly(int(length.partition(b":")[2]))


class Balancer:
    """Running workers, and their clients at one address: a port, or a Unix socket."""

    def __init__(self, site: Site, running: Running, api: str, bind: str) -> None:
        self._site = site
        self.running = running
        self.api = api
        self.bind = bind
        self.clients: list[Client] = []

    async def connect(self) -> Client:
        """A client that has sent a request with its first bytes, and waits for the response."""
        if self.bind.startswith("unix:"):
            streams = await asyncio.open_unix_connection(self.bind.removeprefix("unix:"))
        else:
            streams = await asyncio.open_connection("127.0.0.1", self.running.port)
        client = Client(*streams)
        self.clients.append(client)
        client.writer.write(GET)
        return client

    async def open(self, count: int) -> None:
        """That many more clients, all of them served once."""
        for client in await asyncio.gather(*(self.connect() for _ in range(count))):
            await client.is_answered()

    async def all_are_served(self) -> None:
        for client in self.clients:
            await client.ask()

    async def close(self) -> None:
        for client in self.clients:
            client.writer.close()
        self.clients.clear()

    async def connections(self) -> list[int]:
        """Of each worker that accepts clients, once all are counted."""
        while True:
            found = [
                process["connections"]
                for process in await self._site.processes(self.api)
                if not process["is_draining"]
            ]
            if sum(found) == len(self.clients):
                return found


@asynccontextmanager
async def balancer(
    site: Site,
    *,
    count: int = 2,
    bind: str = "127.0.0.1:0",
    loop: str = "uvloop",
) -> AsyncIterator[Balancer]:
    file = site.write(count=count)
    text = file.read_text().replace("max_connections = 400", "max_connections = 3000")
    text = text.replace(
        'name = "public"\nbind = "127.0.0.1:0"', f'name = "public"\nbind = "{bind}"'
    )
    file.write_text(text)
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(run(file, "--loop", loop))
        running.url = (await running.says(r"listening on (\S+)"))[1]
        api = (await running.says(r"admin on (http://\S+)"))[1] + "/api/v1"
        made = Balancer(site, running, api, bind)
        stack.push_async_callback(made.close)
        yield made


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("is_shared", [False, True], ids=["reuseport", "one socket"])
async def test_no_worker_is_a_fifth_above_its_share(
    site: Site,
    tmp_path: Path,
    loop: str,
    is_shared: bool,
) -> None:
    bind = f"unix:{tmp_path}/lb.sock" if is_shared else "127.0.0.1:0"
    async with balancer(site, bind=bind, loop=loop) as lb:
        for count in (32, 32, 32, 32, 32, 1000):
            await lb.open(count)
            held = await lb.connections()
            assert max(held) <= 1.2 * count / 2, held
            await lb.all_are_served()
            await lb.close()
            await becomes(lb.connections, [0, 0])


async def test_several_workers_have_their_share(site: Site) -> None:
    async with balancer(site, count=4) as lb:
        await lb.open(100)
        held = await lb.connections()
        assert max(held) <= 1.2 * 25, held
        await lb.all_are_served()


async def test_clients_that_were_passed_to_a_worker_that_dies_are_served_by_its_replacement(
    site: Site, tmp_path: Path
) -> None:
    """One socket: the other worker accepts all of them, and passes half on to one that stands
    still, before its heartbeat is late."""
    async with balancer(site, bind=f"unix:{tmp_path}/lb.sock") as lb:
        victim = lb.running.workers[0]
        os.kill(victim, signal.SIGSTOP)
        tasks = Tasks()
        opened = [await lb.connect() for _ in range(40)]
        answers = [tasks.spawn(one.is_answered(), name="answer") for one in opened]
        await until(lambda: sum(answer.done() for answer in answers) >= 10)
        os.kill(victim, signal.SIGKILL)
        await asyncio.gather(*answers)
        assert min(await lb.connections()) > 0
        await lb.all_are_served()


async def test_a_worker_that_stands_still_gets_no_more_clients(site: Site, tmp_path: Path) -> None:
    async with balancer(site, bind=f"unix:{tmp_path}/lb.sock") as lb:
        await lb.open(10)
        victim = lb.running.workers[0]
        os.kill(victim, signal.SIGSTOP)
        try:

            async def are_served() -> bool:
                """All of 20 more clients, while there is time."""
                opened = [await lb.connect() for _ in range(20)]
                try:
                    async with asyncio.timeout(0.5):
                        await asyncio.gather(*(one.is_answered() for one in opened))
                except TimeoutError:
                    return False
                return True

            await until(are_served)
        finally:
            os.kill(victim, signal.SIGCONT)


async def test_a_reload_in_the_middle_loses_no_client(site: Site, tmp_path: Path) -> None:
    """Each removes or adds an address, and connections are on their way between the workers."""
    async with balancer(site, bind=f"unix:{tmp_path}/lb.sock") as lb:
        file = tmp_path / "lb.toml"
        text = file.read_text()
        more = text.replace(
            "[backends.agents]\n",
            '[[frontends]]\nname = "more"\nbind = "127.0.0.1:0"\ndefault_backend = "agents"\n'
            "[backends.agents]\n",
            1,
        )
        tasks = Tasks()
        for wanted in (more, text, more, text):
            file.write_text(wanted)
            opening = tasks.spawn(lb.open(50), name="open")
            async with site.client.post(f"{lb.api}/reload", json={}) as response:
                assert response.status == 200
            await opening
        await lb.all_are_served()
        await lb.open(100)
        held = await lb.connections()
        assert max(held) <= 1.2 * 150, held


async def test_an_upgrade_in_the_middle_loses_no_client(site: Site, tmp_path: Path) -> None:
    async with balancer(site, bind=f"unix:{tmp_path}/lb.sock") as lb:
        lb.running.signal(signal.SIGUSR2)
        await lb.running.says("executing the new code")
        upgraded = Tasks().spawn(lb.running.says("upgraded"), name="upgraded")
        while not upgraded.done():
            await lb.open(5)
            await lb.close()
        await lb.open(100)
        held = await lb.connections()
        assert max(held) <= 1.2 * 50, held


async def test_a_worker_that_is_replaced_loses_no_client(site: Site, tmp_path: Path) -> None:
    async with balancer(site, bind=f"unix:{tmp_path}/lb.sock") as lb:
        await lb.open(20)
        await lb.close()
        leaving = lb.running.workers[0]
        os.kill(leaving, signal.SIGTERM)
        await lb.open(20)
        await until(lambda: leaving not in lb.running.workers)

        async def is_even() -> bool:
            """Once the next worker of the slot serves."""
            await lb.close()
            await lb.open(40)
            return max(await lb.connections()) <= 1.2 * 20

        await until(is_even)
