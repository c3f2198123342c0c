from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent_worker.redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator


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
