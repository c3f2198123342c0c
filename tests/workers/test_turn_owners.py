"""The turns of a worker process that dies, with a real store."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp
import pytest

from agent_worker.redis_server import RedisServer
from hermes_lb.tasks import Tasks
from hermes_lb.turns.store.client import StoreClient
from hermes_lb.turns.store.incarnation import RETIRED
from tests.support.waiting import until
from tests.workers.processes import let_go, serving, turns_in

if TYPE_CHECKING:
    from tests.workers.processes import Site

HEADERS = {"Authorization": "Bearer a", "Idempotency-Key": "k"}


@pytest.mark.slow
async def test_the_turns_of_a_dead_process_are_lost_at_once(site: Site) -> None:
    """Nothing else makes its incarnation retired: without it, others wait for a whole lease."""
    secret = site.folder / "turns.secret"
    secret.write_bytes(os.urandom(32))
    with RedisServer.start() as server:
        client = StoreClient(server.url)
        file = site.write(count=2)
        file.write_text(file.read_text() + turns_in(f'url = "{server.url}"', secret))

        async def incarnations() -> set[bytes | None]:
            keys = await client.ask("", "KEYS", "lb:{o:*}:alive")
            return {await client.ask(key, "GET", key) for key in keys}

        async def repeated() -> int:
            async with site.client.get(f"{running.url}/wait", headers=HEADERS) as response:
                return response.status

        async def is_lost() -> bool:
            return await repeated() == 409

        async def ask() -> None:
            with suppress(aiohttp.ClientError):
                await repeated()

        async with serving(file) as (running, _):
            tasks = Tasks()
            tasks.spawn(ask(), name="a turn")
            await until(lambda: site.workers[0].running + site.workers[1].running == 1)
            assert RETIRED not in await incarnations()
            for pid in running.workers:
                os.kill(pid, signal.SIGKILL)

            async def are_retired() -> bool:
                return RETIRED in await incarnations()

            # A start on a busy machine takes longer than `eventually` waits.
            await until(are_retired)
            await until(is_lost)
            assert site.workers[0].served + site.workers[1].served == 1
            let_go(site.workers)
            await tasks.cancel_all()
        await client.close()
