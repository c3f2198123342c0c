"""Balancers with several processes, in front of servers in the test's own process."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from hermes_lb.testing import PATIENCE
from tests.support.balancer_process import Running, run, until_it_listens
from tests.support.waiting import turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    import aiohttp


class Worker:
    """A server behind the balancer, in the test's process, that counts concurrent requests."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.served = 0
        self.go_on = asyncio.Event()
        self.port = 0
        self.via = ""  # of the last request

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.via = request.headers.get("Via", "")
        self.running += 1
        self.most = max(self.most, self.running)
        self.served += 1
        try:
            match request.path:
                case "/session":
                    return web.Response(headers={"Mcp-Session-Id": f"{self.port}-{self.served}"})
                case "/wait":
                    await self.go_on.wait()
                case "/stream":
                    response = web.StreamResponse()
                    await response.prepare(request)
                    await response.write(b"begun ")
                    await self.go_on.wait()
                    await response.write(b"ended")
                    return response
            return web.Response(text=str(self.port))
        finally:
            self.running -= 1


def let_go(workers: list[Worker]) -> None:
    """End all requests that wait or stream there."""
    for worker in workers:
        worker.go_on.set()


def turns_in(store: str, secret: Path) -> str:
    """TOML behind that of `Site.write`: all requests are turns, in the store of this line."""
    return f'''
[[frontends.routes]]
path_prefix = "/"
backend = "agents"
[frontends.routes.turns]
[store]
{store}
secret_file = "{secret}"
'''


@asynccontextmanager
async def serving(file: Path, before: str = "") -> AsyncIterator[tuple[Running, str]]:
    """A started balancer, and the URL of its admin API."""
    async with run(file, before=before) as running:
        await until_it_listens(running)
        yield running, (await running.says(r"admin on (http://\S+)"))[1] + "/api/v1"


@dataclass
class Site:
    """What a balancer is in front of, its folder, and a client. `url`: of its frontend."""

    folder: Path
    workers: list[Worker]
    client: aiohttp.ClientSession

    def write(
        self, workers: list[Worker] | None = None, *, count: int = 2, **settings: Any
    ) -> Path:
        """A configuration with these workers as servers, for `count` processes.

        `settings`: `process`, `frontend`, `backend`, `server` as TOML.
        """
        servers = "".join(
            f'[[backends.agents.servers]]\nname = "agent{n}"\naddress = "127.0.0.1:{worker.port}"\n'
            f"{settings.get('server', '')}\n"
            for n, worker in enumerate(self.workers if workers is None else workers, 1)
        )
        file = self.folder / "lb.toml"
        file.write_text(
            f"[process]\nworkers = {count}\nmax_connections = 400\n{settings.get('process', '')}\n"
            '[admin]\nbind = "127.0.0.1:0"\n[log]\naccess = "off"\n'
            '[[frontends]]\nname = "public"\nbind = "127.0.0.1:0"\ndefault_backend = "agents"\n'
            f"{settings.get('frontend', '')}\n"
            f"[backends.agents]\n{settings.get('backend', '')}\n{servers}"
        )
        return file

    def serving(
        self, before: str = "", **settings: Any
    ) -> AbstractAsyncContextManager[tuple[Running, str]]:
        """Write the configuration, and start the balancer."""
        return serving(self.write(**settings), before)

    async def get(self, url: str) -> str:
        async with self.client.get(url) as response:
            assert response.status == 200, response.status
            return await response.text()

    async def get_many(self, url: str, count: int) -> list[str]:
        """Concurrent requests."""
        return await asyncio.gather(*(self.get(url) for _ in range(count)))

    async def servers(self, api: str) -> dict[str, dict[str, Any]]:
        async with self.client.get(f"{api}/servers") as response:
            return {server["name"]: server for server in await response.json()}

    async def processes(self, api: str) -> list[dict[str, Any]]:
        async with self.client.get(f"{api}/status") as response:
            found: list[dict[str, Any]] = (await response.json())["processes"]
            return found

    async def responses(self, api: str) -> int:
        """The number of 2xx responses, over all processes."""
        found = (await self.servers(api)).values()
        return sum(server["counters"]["responses"]["2xx"] for server in found)

    @asynccontextmanager
    async def stream(self, url: str) -> AsyncIterator[None]:
        """A stream that has begun, and has to end complete."""
        async with self.client.get(f"{url}/stream") as response:
            assert await response.content.read(6) == b"begun "
            yield
            let_go(self.workers)
            assert await response.content.read() == b"ended"


async def ends_cleanly(running: Running) -> None:
    """A SIGTERM ends it, with the status 0."""
    running.signal(signal.SIGTERM)
    assert await running.ended() == 0


async def becomes(ask: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Ask until this is the answer."""
    async with asyncio.timeout(PATIENCE):
        while await ask() != wanted:
            await turns()
