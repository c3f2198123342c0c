from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent_worker.storage.embedding import HashingEmbedder
from agent_worker.storage.postgres import PostgresStorage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent_worker.storage.postgres_server import PostgresServer


@pytest.fixture
async def storage(postgres_server: PostgresServer) -> AsyncIterator[PostgresStorage]:
    """The same database for all tests: each has a principal of its own."""
    storage = await PostgresStorage.open(postgres_server.url, HashingEmbedder())
    yield storage
    await storage.close()
