"""Opens the configured stores, and reports which are off, and why."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agent_worker.storage.base import Storages
from agent_worker.storage.setup import StorageSetupError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent_worker.storage.base import LongTermMemory
    from agent_worker.storage.blobs import Blobs
    from agent_worker.storage.embedding import Embedder
    from agent_worker.storage.postgres import PostgresStorage

OFF = "off"


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """The stores to use. None is the default, "off" disables a store."""

    #: A directory, s3://bucket/prefix, or "off"; None: the user's state directory.
    blobs: str | None = None
    #: postgresql://... ; None: off.
    database_url: str | None = None
    #: http://... ; None: memories are kept in PostgreSQL.
    qdrant_url: str | None = None
    qdrant_api_key: str = field(default="", repr=False)
    #: Whether each `once` call is recorded in PostgreSQL as well.
    strict_ledger: bool = False
    #: Of an OpenAI-compatible API; without a model, texts are hashed into vectors.
    embedding_url: str = ""
    embedding_model: str = ""
    embedding_dimension: int = 1536
    embedding_api_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Opened:
    storages: Storages
    #: A line for each store: what it keeps, or that it is off.
    report: list[str]
    blobs: Blobs | None = None
    postgres: PostgresStorage | None = None


@contextlib.asynccontextmanager
async def open_storages(options: StorageOptions) -> AsyncIterator[Opened]:
    """Open the stores; they are closed at the end of the block. Raises StorageSetupError.

    The default blob store is off if its package is missing; a store that was configured explicitly
    and cannot be opened is an error.
    """
    report: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        blobs = _open_blobs(options, report)
        postgres = await _open_postgres(options, report)
        if postgres is not None:
            stack.push_async_callback(postgres.close)
        memory: LongTermMemory | None = postgres.memory if postgres is not None else None
        if options.qdrant_url is not None:
            from agent_worker.storage.qdrant import open_qdrant

            qdrant = await open_qdrant(
                options.qdrant_url, _embedder(options), api_key=options.qdrant_api_key
            )
            stack.push_async_callback(qdrant.close)
            memory = qdrant
            report.append("memories: Qdrant")
        if memory is None:
            report.append("off: long-term memory (give --database-url or --qdrant-url)")
        if options.strict_ledger and postgres is None:
            raise StorageSetupError("--strict-ledger needs --database-url")
        storages = Storages(
            blobs=blobs,
            memory=memory,
            preferences=postgres.preferences if postgres is not None else None,
            archive=postgres.archive if postgres is not None else None,
            once_ledger=postgres.once_ledger if postgres and options.strict_ledger else None,
        )
        yield Opened(storages, report, blobs, postgres)


def _open_blobs(options: StorageOptions, report: list[str]) -> Blobs | None:
    from agent_worker.storage.blobs import open_blobs

    if options.blobs == OFF:
        report.append("off: large texts (--blobs off); large tool results are truncated")
        return None
    try:
        where = options.blobs if options.blobs is not None else _state_folder() / "blobs"
        blobs = open_blobs(where)
    except StorageSetupError as error:
        if options.blobs is not None:
            raise
        report.append(f"off: large texts ({error}); large tool results are truncated")
        return None
    if options.blobs is not None:
        report.append(f"large texts: {options.blobs}")
    return blobs


async def _open_postgres(options: StorageOptions, report: list[str]) -> PostgresStorage | None:
    if options.database_url is None:
        report.append("off: preferences and archive (give --database-url)")
        return None
    from agent_worker.storage.postgres import PostgresStorage

    embedder = _embedder(options) if options.qdrant_url is None else None
    postgres = await PostgresStorage.open(options.database_url, embedder)
    ledger = ", strict ledger of once calls" if options.strict_ledger else ""
    memories = ", memories" if postgres.memory is not None else ""
    report.append(f"preferences, archive{memories}{ledger}: PostgreSQL")
    return postgres


def _embedder(options: StorageOptions) -> Embedder:
    from agent_worker.storage.embedding import HashingEmbedder, OpenAIEmbedder

    if not options.embedding_model:
        return HashingEmbedder()
    if not options.embedding_url:
        raise StorageSetupError("--embedding-model needs --embedding-url, such as http://host/v1")
    return OpenAIEmbedder(
        options.embedding_url,
        options.embedding_model,
        options.embedding_dimension,
        api_key=options.embedding_api_key,
    )


def _state_folder() -> Path:
    """Shared by all workers of a user on a machine (XDG Base Directory Specification)."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "agent_worker"
