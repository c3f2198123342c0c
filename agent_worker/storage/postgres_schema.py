"""The tables in PostgreSQL, in the schema `hermes`, and their migrations.

Each part of the schema has a version and a list of steps. A worker runs the missing steps, in one
transaction under an advisory lock, so that any number of workers may start at once. A part may have
a newer version than the worker: it must be compatible with older workers, which run during a
roll-out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_worker.storage.setup import StorageSetupError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from agent_worker.storage.embedding import Embedder

# An arbitrary number: the bytes of "hermes" and a zero.
_LOCK = 0x6865726D657300
# The limit of pgvector's HNSW index for the type `vector`.
_MAX_DIMENSION = 2000
# 0.8 has iterative index scans, without which a filter by principal loses results.
_MIN_PGVECTOR = (0, 8)

_VERSIONS = """
CREATE SCHEMA IF NOT EXISTS hermes;
CREATE TABLE hermes.part (
    name text PRIMARY KEY,
    version int NOT NULL,
    embedder text NOT NULL DEFAULT ''
);
"""

_CORE = (
    """
CREATE TABLE hermes.preference (
    principal text NOT NULL,
    name text NOT NULL,
    value text NOT NULL,
    PRIMARY KEY (principal, name)
);
-- The principal is in the key: no principal can take a place in another's conversation.
-- json, not jsonb: it keeps a message unchanged, including \\u0000.
CREATE TABLE hermes.archive (
    session_id text NOT NULL,
    principal text NOT NULL,
    position int NOT NULL,
    message json NOT NULL,
    archived_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (session_id, principal, position)
);
CREATE INDEX archive_age ON hermes.archive (archived_at);
CREATE TABLE hermes.deleted_session (
    session_id text PRIMARY KEY,
    deleted_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE hermes.once_call (
    session_id text NOT NULL,
    call_key text NOT NULL,
    arguments_hash text NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    result text,
    PRIMARY KEY (session_id, call_key)
);
CREATE INDEX once_call_age ON hermes.once_call (claimed_at);
""",
    # The fence of the session when the message was read from Redis.
    "ALTER TABLE hermes.archive ADD COLUMN fence bigint NOT NULL DEFAULT 0;",
)

_MEMORY = (
    """
CREATE TABLE hermes.memory (
    principal text NOT NULL,
    key text NOT NULL,
    body text NOT NULL,
    embedding vector({dimension}) NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (principal, key)
);
CREATE INDEX memory_nearest ON hermes.memory USING hnsw (embedding vector_cosine_ops);
""",
)


async def migrate(connection: asyncpg.Connection, embedder: Embedder | None) -> None:
    """Create or update the tables; those of the memory only with an `embedder`.

    Run it in a transaction. Raises StorageSetupError if the memory was made with another embedder.
    """
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
    # IF NOT EXISTS needs the privilege to create them even if they exist.
    if not await connection.fetchval("SELECT to_regclass('hermes.part') IS NOT NULL"):
        await connection.execute(_VERSIONS)
    await _run_steps(connection, "core", _CORE)
    if embedder is not None:
        if embedder.dimension > _MAX_DIMENSION:
            raise StorageSetupError(
                f"{embedder.name} gives {embedder.dimension} dimensions; "
                f"pgvector can index {_MAX_DIMENSION}: choose a smaller model"
            )
        await _ensure_pgvector(connection)
        steps = [step.format(dimension=embedder.dimension) for step in _MEMORY]
        await _run_steps(connection, "memory", steps, embedder.name)
        await _check_embedder(connection, embedder)


async def _run_steps(
    connection: asyncpg.Connection, part: str, steps: Sequence[str], embedder: str = ""
) -> None:
    found = await connection.fetchval("SELECT version FROM hermes.part WHERE name = $1", part)
    for step in steps[found or 0 :]:
        await connection.execute(step)
    if (found or 0) < len(steps):
        await connection.execute(
            "INSERT INTO hermes.part (name, version, embedder) VALUES ($1, $2, $3)"
            " ON CONFLICT (name) DO UPDATE SET version = excluded.version",
            part,
            len(steps),
            embedder,
        )


async def _ensure_pgvector(connection: asyncpg.Connection) -> None:
    import asyncpg

    try:
        # Needs no privilege if the extension exists.
        await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except asyncpg.PostgresError as error:
        raise StorageSetupError(
            f"this PostgreSQL has no pgvector, which the memory needs ({type(error).__name__}): "
            "install it, and run CREATE EXTENSION vector as a superuser"
        ) from error
    version = await connection.fetchval(
        "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
    )
    if tuple(int(number) for number in version.split(".")[:2]) < _MIN_PGVECTOR:
        raise StorageSetupError(
            f"pgvector {version} is too old, 0.8 is required: update it, "
            "and run ALTER EXTENSION vector UPDATE as a superuser"
        )


async def _check_embedder(connection: asyncpg.Connection, embedder: Embedder) -> None:
    name = await connection.fetchval("SELECT embedder FROM hermes.part WHERE name = 'memory'")
    # pgvector stores the dimension of a column as its type modifier.
    dimension = await connection.fetchval(
        "SELECT atttypmod FROM pg_attribute"
        " WHERE attrelid = 'hermes.memory'::regclass AND attname = 'embedding'"
    )
    if (name, dimension) != (embedder.name, embedder.dimension):
        raise StorageSetupError(
            f"the memory was made with {name} ({dimension} dimensions), and this worker has "
            f"{embedder.name} ({embedder.dimension}): use the same one, or another database"
        )
