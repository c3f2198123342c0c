"""The connection pool of PostgreSQL, and the conversion of its errors.

The driver is asyncpg: it implements PostgreSQL's protocol on asyncio, so that a wheel of 3 MB is
the only dependency, and includes a pool. (psycopg 3, on libpq, would do as well; its pool is a
separate package.)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from agent_worker.storage.base import StorageUnavailable
from agent_worker.storage.setup import StorageSetupError, missing_extra, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

log = logging.getLogger(__name__)

# Of one worker. A query takes about a millisecond, so these serve hundreds of turns; ten workers
# stay below PostgreSQL's default of 100.
_MAX_CONNECTIONS = 8
_CONNECT_TIMEOUT_S = 5.0
# Seconds to acquire a connection, and of one statement.
_TIMEOUT_S = 5.0
# Seconds to release a connection, which may have a statement to cancel.
_RELEASE_TIMEOUT_S = 2.0


class Database:
    """A pool. `connection` and `transaction` convert errors inside to StorageUnavailable."""

    def __init__(self, pool: asyncpg.Pool, where: str) -> None:
        self._pool = pool
        self._where = where

    def __repr__(self) -> str:
        return f"Database({self._where})"

    @classmethod
    async def connect(cls, url: str) -> Database:
        """Connect to postgresql://user:password@host/database. Raises StorageSetupError."""
        try:
            import asyncpg
        except ImportError as error:
            raise missing_extra("PostgreSQL", "postgres") from error
        try:
            pool = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=_MAX_CONNECTIONS,
                timeout=_CONNECT_TIMEOUT_S,
                command_timeout=_TIMEOUT_S,
                server_settings={"application_name": "agent_worker"},
            )
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            reason = _reason(error)
            raise StorageSetupError(f"cannot use PostgreSQL at {shown(url)}: {reason}") from error
        return cls(pool, shown(url))

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy]:
        """For single statements, each of which is a transaction."""
        import asyncpg

        # The last is raised if the server closes the connection in the moment of its use.
        errors = (
            OSError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
        )
        try:
            connection = await self._pool.acquire(timeout=_TIMEOUT_S)
            try:
                yield connection
            finally:
                # The pool drops a connection that is not released in time.
                await self._pool.release(connection, timeout=_RELEASE_TIMEOUT_S)
        except errors as error:
            log.warning("PostgreSQL at %s: %s", self._where, _reason(error))
            raise StorageUnavailable from error

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy]:
        """Committed at the end of the block; rolled back if it raises."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def close(self) -> None:
        """Wait for running statements, for `_TIMEOUT_S` at most."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._pool.close()
        except TimeoutError:
            # The cancelled pool has dropped its connections.
            log.warning("PostgreSQL at %s: some connections were dropped", self._where)


def _reason(error: BaseException) -> str:
    """Its class and first line; further lines may quote data."""
    line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
