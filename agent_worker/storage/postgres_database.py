"""The pool of connections to PostgreSQL, and what its errors become.

The driver is asyncpg: it speaks PostgreSQL's protocol itself on asyncio, so a wheel of 3 MB is all
there is to install, and it has a pool. (psycopg 3 would do as well, over libpq; its pool is a
package of its own.)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from agent_worker.storage.base import StorageUnavailable
from agent_worker.storage.setup import StorageSetupError, missing_extra, place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

log = logging.getLogger(__name__)

# Of one worker. A query takes about a millisecond, so this many serve hundreds of turns, and
# ten workers together stay below PostgreSQL's default of 100.
_MAX_CONNECTIONS = 8
_CONNECT_TIMEOUT_S = 5.0
# For a connection out of the pool, and for one statement.
_TIMEOUT_S = 5.0
# For a connection to be given back: it may still have a statement to cancel.
_RELEASE_TIMEOUT_S = 2.0


class Database:
    """A pool. `connection` and `transaction` raise StorageUnavailable for whatever fails inside."""

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
            raise StorageSetupError(f"cannot use PostgreSQL at {place(url)}: {reason}") from error
        return cls(pool, place(url))

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy]:
        """For single statements: each is a transaction of its own."""
        import asyncpg

        # The last comes from a connection that the server closes just when it is used.
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
                # When it can't be given back in time, the pool drops it.
                await self._pool.release(connection, timeout=_RELEASE_TIMEOUT_S)
        except errors as error:
            log.warning("PostgreSQL at %s: %s", self._where, _reason(error))
            raise StorageUnavailable from error

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy]:
        """Committed when the block is left, rolled back when it raises."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def close(self) -> None:
        """Wait for what runs, but not for long."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._pool.close()
        except TimeoutError:
            # Cut off, the pool has dropped its connections itself.
            log.warning("PostgreSQL at %s: some connections had to be dropped", self._where)


def _reason(error: BaseException) -> str:
    """Its kind and first line; the others may quote the data."""
    line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
