"""OpenAI's SDK, a balancer, and workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.outside.conftest import no_proxies
from tests.support.agent.chat import System
from tests.support.loops import pytest_asyncio_loop_factories
from tests.support.needs import needs_package
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.agent_worker.conftest import StartWorker
    from tests.support.stage import Stage

    StartSystem = Callable[..., Awaitable[System]]

__all__ = ["no_proxies", "pytest_asyncio_loop_factories"]


@pytest.fixture
async def start_system(stage: Stage, start_worker: StartWorker) -> AsyncIterator[StartSystem]:
    """Start workers, a balancer before them, and a client: `await start_system(engine=...)`.

    In this order: clients close first, then the workers, and then the stage checks for the rest.
    """
    openai = needs_package("openai")
    clients = []

    async def start(*, workers: int = 1, max_retries: int = 0, **config: Any) -> System:
        running = [await start_worker(name=f"w{n}", **config) for n in range(1, workers + 1)]
        ports = [int(worker.url.rpartition(":")[2]) for worker in running]
        lb = await stage.balancer(*ports, backend={"balance": "round_robin"})
        client = openai.AsyncOpenAI(
            api_key="secret", base_url=f"{lb.url}/v1", max_retries=max_retries, timeout=PATIENCE
        )
        clients.append(client)
        return System(client, lb.url, running)

    yield start
    for client in clients:
        await client.close()
