from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent_worker.redis_server import RedisServer
from agent_worker.sessions import RedisBackend, connect
from tests.agent_worker.redis.dropping_proxy import DroppingProxy
from tests.agent_worker.redis.topologies import Cluster, Sentinels

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


@pytest.fixture(scope="session")
def calm_server() -> Iterator[RedisServer]:
    """For tests that do not change it, as the two below."""
    with RedisServer.start() as server:
        yield server


@pytest.fixture(scope="session")
def calm_sentinels() -> Iterator[Sentinels]:
    with Sentinels() as sentinels:
        yield sentinels


@pytest.fixture(scope="session")
def calm_cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    """For a test that kills servers; so is the one below."""
    with Sentinels() as sentinels:
        yield sentinels


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
async def proxy(calm_server: RedisServer) -> AsyncIterator[DroppingProxy]:
    """Between a client and the calm server."""
    async with DroppingProxy(calm_server.port) as proxy:
        yield proxy


@pytest.fixture
async def connected() -> AsyncIterator[Callable[[str], RedisBackend]]:
    """Make clients that are closed at the end: `connected(url)`."""
    clients: list[RedisBackend] = []

    def make(url: str) -> RedisBackend:
        clients.append(connect(url))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()
