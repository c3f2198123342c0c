"""Preferences, memory, archive and the strict ledger on PostgreSQL (see postgres_schema.py)."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from agent_worker.storage.base import Memory, StorageUnavailable
from agent_worker.storage.postgres_database import Database
from agent_worker.storage.postgres_schema import migrate
from agent_worker.storage.setup import StorageSetupError, identity, storable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from asyncpg.pool import PoolConnectionProxy

    from agent_worker.sessions import Message
    from agent_worker.storage.embedding import Embedder

_DAY_S = 86_400.0
# No worker archives messages of a session that was deleted this long ago.
_TOMBSTONE_S = 7 * _DAY_S


class PostgresStorage:
    """All of them on one pool. `memory` is None without an embedder, which is closed with it."""

    def __init__(self, database: Database, embedder: Embedder | None) -> None:
        self.preferences = PostgresPreferences(database)
        self.archive = PostgresArchive(database)
        self.once_ledger = PostgresOnceLedger(database)
        self.memory = PostgresMemory(database, embedder) if embedder is not None else None
        self._database = database
        self._embedder = embedder

    @classmethod
    async def open(cls, url: str, embedder: Embedder | None = None) -> PostgresStorage:
        """Connect to postgresql://..., create or update the tables. Raises StorageSetupError."""
        database = await Database.connect(url)
        try:
            async with database.transaction() as connection:
                await migrate(connection, embedder)
        except StorageUnavailable as error:
            await database.close()
            raise StorageSetupError(f"cannot set up {database}: {error.__cause__}") from error
        except BaseException:
            await database.close()
            raise
        return cls(database, embedder)

    async def purge(self, *, archive_s: float, calls_s: float) -> None:
        """Remove sessions whose last message was archived over `archive_s` seconds ago, and calls
        that were claimed over `calls_s` ago. `calls_s` must be more than the longest life of a
        session (30 days), or a call could be claimed again.
        """
        async with self._database.connection() as connection:
            await connection.execute(
                "DELETE FROM hermes.archive WHERE session_id IN ("
                " SELECT session_id FROM hermes.archive GROUP BY session_id"
                " HAVING max(archived_at) < now() - make_interval(secs => $1))",
                archive_s,
            )
            await connection.execute(
                "DELETE FROM hermes.once_call WHERE claimed_at < now() - make_interval(secs => $1)",
                calls_s,
            )

    async def close(self) -> None:
        await self._database.close()
        if self._embedder is not None:
            await self._embedder.close()


class PostgresPreferences:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self, principal: str) -> dict[str, str]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "SELECT name, value FROM hermes.preference WHERE principal = $1 ORDER BY name",
                identity(principal),
            )
        return {row["name"]: row["value"] for row in rows}

    async def set(self, principal: str, name: str, value: str) -> None:
        async with self._database.connection() as connection:
            await connection.execute(
                "INSERT INTO hermes.preference (principal, name, value) VALUES ($1, $2, $3)"
                " ON CONFLICT (principal, name) DO UPDATE SET value = excluded.value",
                identity(principal),
                identity(name),
                storable(value),
            )

    async def delete(self, principal: str, name: str) -> bool:
        async with self._database.connection() as connection:
            done = await connection.execute(
                "DELETE FROM hermes.preference WHERE principal = $1 AND name = $2",
                identity(principal),
                identity(name),
            )
        return bool(done == "DELETE 1")


class PostgresMemory:
    def __init__(self, database: Database, embedder: Embedder) -> None:
        self._database = database
        self._embedder = embedder

    async def remember(self, principal: str, key: str, text: str) -> None:
        vector = await self._vector(text)
        async with self._database.connection() as connection:
            await connection.execute(
                "INSERT INTO hermes.memory (principal, key, body, embedding)"
                " VALUES ($1, $2, $3, $4::text::vector)"
                " ON CONFLICT (principal, key) DO UPDATE"
                " SET body = excluded.body, embedding = excluded.embedding, written_at = now()",
                identity(principal),
                identity(key),
                storable(text),
                vector,
            )

    async def recall(self, principal: str, query: str, *, limit: int = 5) -> list[Memory]:
        vector = await self._vector(query)
        async with self._database.transaction() as connection:
            # The index does not filter by principal: without this it returns the nearest 40 of all
            # principals, few of which may be the principal's own.
            await connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            rows = await connection.fetch(
                "SELECT key, body, 1 - (embedding <=> $2::text::vector) AS score"
                " FROM hermes.memory WHERE principal = $1"
                " ORDER BY embedding <=> $2::text::vector LIMIT $3",
                identity(principal),
                vector,
                limit,
            )
        return [Memory(row["key"], row["body"], row["score"]) for row in rows]

    async def forget(self, principal: str, key: str) -> bool:
        async with self._database.connection() as connection:
            done = await connection.execute(
                "DELETE FROM hermes.memory WHERE principal = $1 AND key = $2",
                identity(principal),
                identity(key),
            )
        return bool(done == "DELETE 1")

    async def _vector(self, text: str) -> str:
        """In pgvector's text form."""
        (vector,) = await self._embedder.embed([text])
        return f"[{','.join(format(number, '.8g') for number in vector)}]"


# $1 session, $2 principal, $3 first position, $4 messages, $5 fence. If a message differs from the
# one stored under a lower fence, Redis has lost the latter and all after it. So fences increase
# with positions, and a reader with a lower fence than the last one has outdated messages.
_FORGET_LOST = """
DELETE FROM hermes.archive
WHERE session_id = $1 AND principal = $2 AND fence < $5 AND position >= (
    SELECT min(known.position)
    FROM hermes.archive known
    JOIN unnest($4::text[]) WITH ORDINALITY AS new (message, number)
      ON known.position = $3 + new.number - 1
    WHERE known.session_id = $1 AND known.principal = $2 AND known.fence < $5
      AND known.message::text <> new.message)
"""
_KEEP = """
INSERT INTO hermes.archive (session_id, principal, position, message, fence)
SELECT $1, $2, $3 + number - 1, message::json, $5
FROM unnest($4::text[]) WITH ORDINALITY AS new (message, number)
WHERE NOT EXISTS (SELECT FROM hermes.deleted_session WHERE session_id = $1)
  AND $5 >= COALESCE((
    SELECT fence FROM hermes.archive WHERE session_id = $1 AND principal = $2
    ORDER BY position DESC LIMIT 1), 0)
ON CONFLICT DO NOTHING
"""


class PostgresArchive:
    """Deleting a session leaves a tombstone for a week, so that no late worker restores it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(
        self,
        session_id: str,
        principal: str,
        first: int,
        messages: Sequence[Message],
        *,
        fence: int,
    ) -> None:
        # Escapes everything that is not ASCII, so that every text can be stored.
        texts = [json.dumps(message) for message in messages]
        values = (identity(session_id), identity(principal), first, texts, fence)
        async with self._locked(session_id) as connection:
            await connection.execute(_FORGET_LOST, *values)
            await connection.execute(_KEEP, *values)

    async def read(self, session_id: str, principal: str) -> list[Message]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "SELECT message FROM hermes.archive WHERE session_id = $1 AND principal = $2"
                " ORDER BY position",
                identity(session_id),
                identity(principal),
            )
        return [json.loads(row["message"]) for row in rows]

    async def delete(self, session_id: str) -> None:
        async with self._locked(session_id) as connection:
            await connection.execute(
                "DELETE FROM hermes.deleted_session"
                " WHERE deleted_at < now() - make_interval(secs => $1)",
                _TOMBSTONE_S,
            )
            await connection.execute(
                "INSERT INTO hermes.deleted_session (session_id) VALUES ($1)"
                " ON CONFLICT DO NOTHING",
                identity(session_id),
            )
            await connection.execute(
                "DELETE FROM hermes.archive WHERE session_id = $1", identity(session_id)
            )

    @contextlib.asynccontextmanager
    async def _locked(self, session_id: str) -> AsyncIterator[PoolConnectionProxy]:
        """A transaction with an exclusive lock of the session: serialises append and delete."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", identity(session_id)
            )
            yield connection


class PostgresOnceLedger:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, session_id: str, call_key: str, arguments_hash: str) -> bool:
        """If its reply is lost, the claim may stand: StorageUnavailable, the call never runs."""
        async with self._database.transaction() as connection:
            # A crash of the server must not undo the claim.
            await connection.execute("SET LOCAL synchronous_commit = on")
            done = await connection.execute(
                "INSERT INTO hermes.once_call (session_id, call_key, arguments_hash)"
                " VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                identity(session_id),
                identity(call_key),
                storable(arguments_hash),
            )
        return bool(done == "INSERT 0 1")

    async def finish(self, session_id: str, call_key: str, result: str) -> None:
        """Only the first result is stored."""
        async with self._database.connection() as connection:
            await connection.execute(
                "UPDATE hermes.once_call SET result = $3"
                " WHERE session_id = $1 AND call_key = $2 AND result IS NULL",
                identity(session_id),
                identity(call_key),
                storable(result),
            )

    async def result(self, session_id: str, call_key: str, arguments_hash: str) -> str | None:
        async with self._database.connection() as connection:
            found: str | None = await connection.fetchval(
                "SELECT result FROM hermes.once_call"
                " WHERE session_id = $1 AND call_key = $2 AND arguments_hash = $3",
                identity(session_id),
                identity(call_key),
                storable(arguments_hash),
            )
        return found
