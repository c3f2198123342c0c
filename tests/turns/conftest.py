from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent_worker.redis_server import RedisServer
from hermes_lb.tasks import Tasks
from tests.support.turn_fleet import MemoryFleet, TurnFleet, ValkeyFleet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(params=["memory", "valkey", pytest.param("cluster", marks=pytest.mark.slow)])
async def fleet(request: pytest.FixtureRequest) -> AsyncIterator[TurnFleet]:
    running: TurnFleet = MemoryFleet()
    if request.param != "memory":
        running = ValkeyFleet(request.getfixturevalue(f"{request.param}_url"))
    yield running
    await running.close()


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    group = Tasks()
    yield group
    await group.cancel_all()


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """One Valkey per xdist worker; principals are random, so tests are independent."""
    with RedisServer.start() as server:
        yield server.url


@pytest.fixture(scope="session")
def cluster_url() -> Iterator[str]:
    """Three masters, each with a replica."""
    topologies = pytest.importorskip("tests.agent_worker.redis.topologies")
    with topologies.Cluster() as cluster:
        yield cluster.url
