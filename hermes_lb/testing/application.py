"""aiohttp's applications: behind a balancer, and around one."""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import web

from hermes_lb.tasks import Tasks
from hermes_lb.testing.balancer import WatchedBalancer
from hermes_lb.testing.connection import Over
from hermes_lb.testing.messages import Reply, Request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
    from pathlib import Path
    from typing import Any, TypeAlias

    from hermes_lb.config import Config
    from hermes_lb.testing.connection import Connection

    Source: TypeAlias = Config | Mapping[str, Any] | str | Path

LOAD_BALANCER = web.AppKey("LOAD_BALANCER", WatchedBalancer)


def balancer_context(
    config: Source | Callable[[web.Application], Source],
    *,
    key: web.AppKey[WatchedBalancer] = LOAD_BALANCER,
) -> Callable[[web.Application], AsyncIterator[None]]:
    """For `app.cleanup_ctx`: a balancer that lives as long as the application, at `app[key]`.

    `config` may be a function of the application, for what is known only when it starts.
    """

    async def context(app: web.Application) -> AsyncIterator[None]:
        configured = config(app) if callable(config) else config
        async with WatchedBalancer(configured) as lb:
            app[key] = lb
            yield

    return context


class Application:
    """An application of aiohttp as the inside of a `Server`, so that it can misbehave as well.

    It is served as aiohttp serves it, on a port that only the `Server` knows; each request comes on
    a connection of its own.
    """

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        self._address = ("", 0)
        self._tasks = Tasks()

    async def start(self) -> None:
        await self._runner.setup()
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self._address = sock.getsockname()
        await web.SockSite(self._runner, sock).start()

    async def stop(self) -> None:
        await self._tasks.cancel_all()
        await self._runner.cleanup()

    async def reply(self, request: Request, connection: Connection) -> Reply:
        """What the application says; after an Upgrade, its bytes and the client's both ways."""
        pieces = self._pieces(request, connection)
        head = await anext(pieces)
        is_streamed = b"\r\ncontent-length:" not in head.lower()
        return Reply(_led_by(head, pieces), is_streamed)

    async def _pieces(
        self, request: Request, connection: Connection
    ) -> AsyncGenerator[bytes, None]:
        reader, writer = await asyncio.open_connection(*self._address)
        upload = None
        try:
            writer.write(_asked_once(request))
            head = await reader.readuntil(b"\r\n\r\n")
            yield head if request.is_websocket else _CLOSE.sub(b"", head)
            if request.is_websocket:
                upload = self._tasks.spawn(_pass_on(connection, writer), name="to the application")
            size, last = 0, b""
            while piece := await reader.read(64 * 1024):
                size, last = size + len(piece), (last + piece)[-len(_LAST_CHUNK) :]
                yield piece
            if not _is_whole(request, head, size, last):
                raise Over
        except (EOFError, OSError) as error:
            raise Over from error
        finally:
            if upload is not None:
                upload.cancel()
            writer.close()


async def _led_by(head: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        yield head
        async for piece in rest:
            yield piece
    finally:
        await rest.aclose()


def _asked_once(request: Request) -> bytes:
    """The request's bytes, on a connection that ends with its answer."""
    fields = [
        (name, value)
        for name, value in request.fields
        if request.is_websocket or name.lower() not in ("connection", "expect")
        if name.lower() not in ("transfer-encoding", "content-length")
    ]
    if not request.is_websocket:
        fields.append(("Connection", "close"))
    if request.body or request.method not in ("GET", "HEAD"):
        fields.append(("Content-Length", str(len(request.body))))
    lines = [f"{request.method} {request.target} HTTP/1.1", *(f"{n}: {v}" for n, v in fields)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + request.body


def _is_whole(request: Request, head: bytes, size: int, last: bytes) -> bool:
    """Whether `size` bytes are the whole body: aiohttp ends the connection if a stream fails."""
    if request.method == "HEAD" or head.split(b" ", 2)[1] in (b"204", b"304"):
        return True
    if length := _LENGTH.search(head):
        return size == int(length[1])
    return last == _LAST_CHUNK


_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_LAST_CHUNK = b"0\r\n\r\n"

# The inner connection's end is none of the outer one's.
_CLOSE = re.compile(rb"(?i)\r\nconnection: close(?=\r\n)")


async def _pass_on(connection: Connection, writer: asyncio.StreamWriter) -> None:
    with suppress(Exception):
        while True:
            writer.write(await connection.read_some())
            await writer.drain()
