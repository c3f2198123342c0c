"""What operators see of servers whose requests fail: of real processes, by each of their means."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.balancer_process import reserved_port
from tests.workers.processes import Site, Worker, becomes

if TYPE_CHECKING:
    import aiohttp

pytestmark = pytest.mark.slow


async def _metric(client: aiohttp.ClientSession, api: str, series: str) -> float:
    async with client.get(api.removesuffix("/api/v1") + "/metrics") as response:
        text = await response.text()
    return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if series in line)


async def _ctl(api: str, *words: str) -> str:
    command = ["-m", "hermes_lb", "ctl", "--url", api.removesuffix("/api/v1"), *words]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE
    )
    return (await process.communicate())[0].decode()


@pytest.mark.parametrize("count", [1, 2], ids=["one process", "two processes"])
async def test_a_server_that_refuses_connections_is_seen_everywhere(site: Site, count: int) -> None:
    dead = Worker()
    with reserved_port() as dead.port:
        file_of: dict[str, Any] = {"server": 'max_fails = 2\nfail_timeout = "30s"', "count": count}
        async with site.serving(workers=[dead, site.workers[0]], **file_of) as (running, api):
            for _ in range(8 * count):  # each process sees both servers
                await site.get(running.url)

            async def state() -> str:
                return str((await site.servers(api))["agent1"]["state"])

            await becomes(state, "failing")
            why = (await site.servers(api))["agent1"]["because"]
            assert why.startswith("2 failures: ")
            assert "Connection refused" in why
            labels = 'backend="agents",server="agent1"'
            assert await _metric(site.client, api, f"hermes_lb_server_up{{{labels}}}") == 0
            series = f'hermes_lb_server_state{{{labels},state="failing"}}'
            assert await _metric(site.client, api, series) == 1
            [row] = [line for line in (await _ctl(api, "servers")).splitlines() if "agent1" in line]
            assert "failing" in row
            assert "Connection refused" in row

            async def past() -> set[str]:
                url = f"{api}/history?backend=agents&fields=state"
                async with site.client.get(url) as response:
                    found = await response.json()
                states = found["servers"].get("agent1", {}).get("state", ())
                return {found["states"][int(n)] for n in states[-1:] if n is not None}

            await becomes(past, {"failing"})
            async with site.client.get(f"{api}/changes") as response:
                changes = [(c["server"], c["state"]) for c in await response.json()]
            assert changes == [("agent1", "failing")]
            await running.says(
                r"agents/agent1 is FAILING, taken out for 30 s after 2 failures: .*Connection "
                r"refused; 1 server left"
            )


async def test_the_return_is_seen_as_well(site: Site) -> None:
    dead = Worker()
    with reserved_port() as dead.port:
        server = 'max_fails = 1\nfail_timeout = "1s"'
        async with site.serving(workers=[dead], server=server) as (running, api):
            async with site.client.get(running.url) as response:
                assert response.status == 503

            async def states() -> list[str]:
                async with site.client.get(f"{api}/changes") as response:
                    return [change["state"] for change in await response.json()]

            await becomes(states, ["failing"])
            await running.says(
                "agent1 is FAILING after 1 failure: .* it is the only server and stays"
            )
            back = await asyncio.start_server(_answer, "127.0.0.1", dead.port)
            async with back:
                await site.get(running.url)
                await becomes(states, ["failing", "up"])
                await running.says("agent1 is back: it has answered a request")


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    await writer.drain()
    writer.close()
