"""A server behind the balancer, by hand or by itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from tests.support.http_peer import AtOrigin, Ended, Message
from tests.support.waiting import PATIENCE, turns

if TYPE_CHECKING:
    from hermes_lb.tasks import Tasks

Handler = Callable[[AtOrigin, Message], Awaitable[None]]


class Origin:
    """A server behind the balancer: by hand (`accept`), or by itself (`serve`)."""

    def __init__(self, sock: socket.socket, tasks: Tasks, problems: list[str]) -> None:
        self._tasks = tasks
        self._problems = problems
        self._sock = sock
        if sock.family == socket.AF_UNIX:
            self.port, self.address = 0, f"unix:{sock.getsockname()}"
        else:
            self.port = sock.getsockname()[1]
            self.address = f"127.0.0.1:{self.port}"
        self.connections: list[AtOrigin] = []
        self.requests: list[Message] = []  # that `serve` has read

    async def accept(self) -> AtOrigin:
        try:
            async with asyncio.timeout(PATIENCE):
                sock, _ = await asyncio.get_running_loop().sock_accept(self._sock)
        except TimeoutError:
            raise AssertionError("no connection came") from None
        connection = AtOrigin(sock)
        self.connections.append(connection)
        return connection

    async def accept_request(self) -> tuple[AtOrigin, Message]:
        """Accept a connection and read the first request on it."""
        connection = await self.accept()
        return connection, await connection.read_request()

    async def has_no_new_connection(self) -> bool:
        """True if there is no new connection after several loop iterations."""
        await turns(10)
        try:
            sock, _ = self._sock.accept()
        except BlockingIOError:
            return True
        sock.close()
        return False

    def serve(self, handler: Handler) -> None:
        """Pass each request on each connection to `handler`."""
        self._tasks.spawn(self._accept_for(handler), name="origin")

    async def _accept_for(self, handler: Handler) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._sock)
            connection = AtOrigin(sock)
            self.connections.append(connection)
            self._tasks.spawn(self._handle(connection, handler), name="at origin")

    async def _handle(self, connection: AtOrigin, handler: Handler) -> None:
        try:
            while True:
                message = await connection.read_request()
                self.requests.append(message)
                await handler(connection, message)
        except (Ended, OSError):
            connection.close()
        except AssertionError as problem:
            if connection.received:  # not: an idle connection on which nothing came
                self._problems.append(f"at the origin: {problem!r}")

    def stop_listening(self) -> None:
        self._sock.close()

    def close(self) -> None:
        self._sock.close()
        for connection in self.connections:
            connection.close()


def answers(body: bytes = b"ok", *fields: str, status: int = 200) -> Handler:
    """A handler that always says the same."""

    async def handle(connection: AtOrigin, message: Message) -> None:
        await connection.respond(body, *fields, status=status)

    return handle
