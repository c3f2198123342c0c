"""Real servers for the store: one, Sentinels, a Cluster; a way to one that loses replies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hermes_lb.tasks import Tasks
from hermes_lb.turns.store.client import StoreClient
from hermes_lb.turns.store.stored_journals import StoredJournals
from tests.support.loops import pytest_asyncio_loop_factories

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from agent_worker.redis_server import RedisServer
    from tests.agent_worker.redis.dropping_proxy import DroppingProxy
    from tests.agent_worker.redis.topologies import Cluster, Sentinels

    Connected = Callable[..., StoreClient]

__all__ = ["pytest_asyncio_loop_factories"]


@pytest.fixture(scope="session")
def valkey() -> Iterator[RedisServer]:
    """For tests that do not change it."""
    module = pytest.importorskip("agent_worker.redis_server")
    with module.RedisServer.start() as server:
        yield server


@pytest.fixture
async def link(valkey: RedisServer) -> AsyncIterator[DroppingProxy]:
    """A way to that server, which can lose replies."""
    module = pytest.importorskip("tests.agent_worker.redis.dropping_proxy")
    async with module.DroppingProxy(valkey.port) as proxy:
        yield proxy


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    topologies = pytest.importorskip("tests.agent_worker.redis.topologies")
    with topologies.Sentinels() as sentinels:
        yield sentinels


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    topologies = pytest.importorskip("tests.agent_worker.redis.topologies")
    with topologies.Cluster() as cluster:
        yield cluster


@pytest.fixture
async def connected() -> AsyncIterator[Connected]:
    """Make clients that are closed at the end: `connected(url)`."""
    clients: list[StoreClient] = []

    def make(url: str, patience: float = 10.0) -> StoreClient:
        clients.append(StoreClient(url, patience=patience))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
async def journals() -> AsyncIterator[Callable[[StoreClient], StoredJournals]]:
    """Make the journals of a process: `journals(client)`. They are closed before their client."""
    made: list[StoredJournals] = []

    def make(client: StoreClient) -> StoredJournals:
        made.append(StoredJournals(client))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
async def written(
    valkey: RedisServer,
    connected: Connected,
    journals: Callable[[StoreClient], StoredJournals],
) -> StoredJournals:
    """The journals of one process, on that server."""
    return journals(connected(valkey.url))


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    group = Tasks()
    yield group
    await group.cancel_all()
