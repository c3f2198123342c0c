from __future__ import annotations

import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from agent_worker.storage.embedding import HashingEmbedder
from agent_worker.storage.postgres import PostgresStorage
from agent_worker.storage.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One per xdist worker; each test has a database of its own."""
    with PostgresServer.start() as server:
        yield server


@pytest.fixture
async def database_url(postgres_server: PostgresServer) -> str:
    """Of an empty database."""
    name = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres_server.url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return postgres_server.url.replace("/postgres?", f"/{name}?")


@pytest.fixture
async def storage(database_url: str) -> AsyncIterator[PostgresStorage]:
    storage = await PostgresStorage.open(database_url, HashingEmbedder())
    yield storage
    await storage.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Unlike tmp_path, PostgreSQL's user can enter it when the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="agent-worker-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
