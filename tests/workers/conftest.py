"""Servers and clients of the balancers that run in processes of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from tests.workers.processes import Site, Worker, let_go

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def workers() -> AsyncIterator[list[Worker]]:
    running = [Worker(), Worker()]
    runners = []
    for worker in running:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", worker.handle)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        worker.port = runner.addresses[0][1]
        runners.append(runner)
    yield running
    let_go(running)
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """Each request on its own connection, so that the kernel spreads them."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


@pytest.fixture
def site(tmp_path: Path, workers: list[Worker], client: aiohttp.ClientSession) -> Site:
    return Site(tmp_path, workers, client)
