from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import redis.asyncio as redis_asyncio

from agent_worker.app import Worker, WorkerConfig
from agent_worker.redis_server import RedisServer
from agent_worker.sessions import SessionStore, connect
from agent_worker.sessions.turn_index import INDEX
from agent_worker.storage.postgres_server import PostgresServer
from tests.support.agent.running_worker import RunningWorker
from tests.support.agent.sessions import ME

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from redis.asyncio import Redis

    from agent_worker.sessions import RedisBackend
    from agent_worker.storage.base import Storages

    StartWorker = Callable[..., Awaitable[RunningWorker]]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Valkey per xdist worker; session ids are random, so tests are independent."""
    with RedisServer.start() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for each xdist worker."""
    with PostgresServer.start() as server:
        yield server


@pytest.fixture
def own_redis_server() -> Iterator[RedisServer]:
    """A server of its own, for a test that kills it."""
    with RedisServer.start() as server:
        yield server


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[RedisBackend]:
    client = connect(redis_server.url)
    yield client
    await client.aclose()


@pytest.fixture
def redis(client: RedisBackend) -> Redis:
    """redis-py's own client, to inspect what the store wrote."""
    return client.raw


@pytest.fixture
def store(client: RedisBackend) -> SessionStore:
    return client.session_store()


@pytest.fixture
async def sid(store: SessionStore) -> str:
    """A new session of `ME`."""
    return await store.create(ME, {})


@pytest.fixture
async def start_worker(redis_server: RedisServer) -> AsyncIterator[StartWorker]:
    """Start workers in this process: `await start_worker(engine=..., name=..., lease_s=...)`."""
    running: list[tuple[RunningWorker, RedisBackend]] = []
    # Without entries of workers of other tests.
    async with aclosing(redis_asyncio.from_url(redis_server.url)) as raw:
        await raw.delete(INDEX)

    async def start(
        *,
        redis_url: str | None = None,
        engine: Any = None,
        toolbox: Any = None,
        storages: Storages | None = None,
        **config: Any,
    ) -> RunningWorker:
        client = connect(redis_url or redis_server.url)
        worker = Worker(
            WorkerConfig(**config), client, engine=engine, toolbox=toolbox, storages=storages
        )
        running.append((await RunningWorker.start(worker), client))
        return running[-1][0]

    yield start
    for worker, client in running:
        await worker.stop()
        await client.aclose()


@pytest.fixture
async def worker(start_worker: StartWorker) -> RunningWorker:
    return await start_worker()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield session
