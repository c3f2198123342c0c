from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent_worker.storage.embedding import HashingEmbedder
from agent_worker.storage.postgres import PostgresStorage
from agent_worker.storage.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with PostgresServer.start() as server:
        yield server.url


@pytest.fixture
async def storage(postgres_url: str) -> AsyncIterator[PostgresStorage]:
    """The same database for all tests: each has a principal of its own."""
    storage = await PostgresStorage.open(postgres_url, HashingEmbedder())
    yield storage
    await storage.close()
