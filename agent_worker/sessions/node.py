"""One Redis server and the pool of connections to it."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from redis import exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import AuthenticationError, ResponseError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator, Mapping

    from redis.asyncio.connection import AbstractConnection

    from agent_worker.sessions.redis_url import Address

Command = tuple[str | int | bytes, ...]


class Unreachable(redis_errors.ConnectionError):
    """No connection: nothing was sent, so nothing was done."""


class Node:
    """A server. `ask` may be called concurrently."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._pool = BlockingConnectionPool(**settings)
        self._closed = False

    def __repr__(self) -> str:
        return f"<Node {self.name}>"

    @property
    def name(self) -> str:
        """For messages: "host:port" or the path of its socket."""
        kwargs = self._pool.connection_kwargs
        return str(kwargs.get("path") or f"{kwargs['host']}:{kwargs['port']}")

    @property
    def address(self) -> Address:
        """Not for a Unix socket."""
        kwargs = self._pool.connection_kwargs
        return kwargs["host"], kwargs["port"]

    async def ask(self, *commands: Command) -> list[Any]:
        """Send the commands together on one connection; returns their replies in order.

        An error reply is returned as a ResponseError. Raises Unreachable if nothing was sent,
        redis-py's ConnectionError or TimeoutError if it may have been, and AuthenticationError.
        """
        try:
            with _lost_if_closed():
                connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        except AuthenticationError:
            raise
        except (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError) as error:
            raise Unreachable(f"{self.name}: {error or type(error).__name__}") from error
        try:
            if self._closed:
                # `aclose` may be disconnecting it, as it was idle.
                raise Unreachable(f"{self.name}: closed")
            packed = connection.pack_commands(commands)
            with _lost_if_closed():
                await connection.send_packed_command(packed)
            return [await _reply(connection) for _ in commands]
        finally:
            if self._closed:
                await connection.disconnect(nowait=True)
            await self._pool.release(connection)

    @asynccontextmanager
    async def own_connection(self) -> AsyncIterator[AbstractConnection]:
        """A connection outside of the pool. Raises redis-py's ConnectionError, TimeoutError."""
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            with _lost_if_closed():
                await connection.connect()  # type: ignore[no-untyped-call]
            yield connection
        finally:
            await connection.disconnect(nowait=True)

    async def aclose(self) -> None:
        """Close idle connections now, and the others when they are released."""
        self._closed = True
        await self._pool.disconnect(inuse_connections=False)


class Nodes:
    """The servers of a deployment by address, created on first use."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._nodes: dict[Address, Node] = {}

    def at(self, address: Address) -> Node:
        node = self._nodes.get(address)
        if node is None:
            host, port = address
            node = self._nodes[address] = Node({**self._settings, "host": host, "port": port})
        return node

    def holds(self, node: Node) -> bool:
        return node in self._nodes.values()

    async def keep(self, addresses: Collection[Address]) -> None:
        """Close and forget all others."""
        gone = [address for address in self._nodes if address not in addresses]
        for node in [self._nodes.pop(address) for address in gone]:
            await node.aclose()


@contextmanager
def _lost_if_closed() -> Iterator[None]:
    """uvloop raises RuntimeError for a transport that the server has closed."""
    try:
        yield
    except RuntimeError as error:
        raise redis_errors.ConnectionError(str(error)) from error


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        # Not raised: the replies after it have to be read.
        return error
