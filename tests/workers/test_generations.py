"""Old and new workers side by side: shared limits, sessions and counters."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import aiohttp
import pytest

from hermes_lb.tasks import Tasks
from hermes_lb.testing import eventually
from tests.workers.forced_states import meddling
from tests.workers.processes import becomes, let_go, serving

if TYPE_CHECKING:
    from tests.workers.processes import Site

pytestmark = pytest.mark.slow


async def test_a_limit_of_a_server_holds_over_two_generations_of_one_worker(site: Site) -> None:
    [server, _] = site.workers
    file = site.write([server], count=1, server="max_connections = 1")
    async with serving(file) as (running, api):

        async def queued() -> int:
            async with site.client.get(f"{api}/backends") as response:
                [backend] = await response.json()
                count: int = backend["queued"]
                return count

        for _ in range(2):  # the second time beside one that itself began beside another
            tasks = Tasks()
            async with site.stream(running.url):
                running.signal(signal.SIGUSR2)
                await running.says("upgraded")
                waiting = tasks.spawn(site.get(running.url), name="waiting")
                await becomes(queued, 1)
            await waiting
            assert server.most == 1
            server.go_on.clear()
            await eventually(lambda: len(running.workers) == 1)
            running.said = ""


SLOW_EXEC = "import time\nif 'HERMES_LB_HANDOVER' in os.environ: time.sleep(1.0)"


async def test_a_session_stays_where_it_is_while_the_supervisor_is_replaced(site: Site) -> None:
    """In a worker that started later, and has to ask for it."""
    backend = '[[backends.agents.stick]]\non = "header:Mcp-Session-Id"\nlearn = true\n'
    file = site.write(count=1, backend=backend)
    async with serving(file, meddling(site.folder, SLOW_EXEC)) as (running, _):
        sessions = []
        for _ in range(10):
            async with site.client.get(f"{running.url}/session") as response:
                sessions.append(response.headers["Mcp-Session-Id"])
        [victim] = running.workers
        os.kill(victim, signal.SIGKILL)
        await running.says("another one starts")
        assert await site.get(running.url)
        running.signal(signal.SIGUSR2)
        await running.says("executing the new code")

        async def home(session: str) -> str:
            fields = {"Mcp-Session-Id": session}
            async with site.client.get(running.url, headers=fields) as response:
                return await response.text()

        found = await asyncio.gather(*map(home, sessions))
        assert found == [session.partition("-")[0] for session in sessions]


async def test_what_is_cut_at_the_end_of_the_drain_is_counted(site: Site) -> None:
    file = site.write(site.workers[:1], count=1, process='drain_timeout = "0.3s"')
    async with serving(file) as (running, api):

        async def responses() -> int:
            counters = (await site.servers(api))["agent1"]["counters"]
            return sum(counters["responses"].values())

        async with site.client.get(f"{running.url}/stream") as response:
            assert await response.content.read(6) == b"begun "
            running.signal(signal.SIGUSR2)
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.content.read()
        await becomes(responses, 1)
        let_go(site.workers)
