"""aiohttp applications behind a balancer, and with a balancer inside."""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from aiohttp import web

from hermes_lb.tasks import Tasks
from hermes_lb.testing.balancer import WatchedBalancer
from hermes_lb.testing.connection import Over
from hermes_lb.testing.messages import Reply, Request
from hermes_lb.testing.websocket import frame, read_frame

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
    """For `app.cleanup_ctx`: a balancer that runs as long as the application, at `app[key]`.

    `config` may be a function of the application, for values known only when it starts.
    """

    async def context(app: web.Application) -> AsyncIterator[None]:
        configured = config(app) if callable(config) else config
        async with WatchedBalancer(configured) as lb:
            app[key] = lb
            yield

    return context


class Application:
    """An aiohttp application inside a `Server`, so that it can misbehave as well.

    It is served by aiohttp on a port that only the `Server` knows; each request is sent on its own
    connection.
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
        """The application's response; after an Upgrade, bytes in both directions."""
        pieces = self._pieces(request, connection)
        head = await anext(pieces)
        return Reply(pieces, is_streamed=_LENGTH.search(head) is None)

    async def _pieces(
        self, request: Request, connection: Connection
    ) -> AsyncGenerator[bytes, None]:
        """The head twice, once for `reply`; then the body, whose end also ends the connection."""
        reader, writer = await asyncio.open_connection(*self._address)
        upload = None
        try:
            writer.write(_asked_once(request))
            head = await reader.readuntil(b"\r\n\r\n")
            is_upgraded = _status(head) == 101
            for _ in range(2):
                yield head if is_upgraded else _CLOSE.sub(b"", head)
            if is_upgraded:
                upload = self._tasks.spawn(_pass_on(connection, writer), name="to the application")
            async with aclosing(_body(request, head, reader)) as body:
                async for piece in body:
                    yield piece
        except (EOFError, OSError) as error:
            raise Over from error
        finally:
            if upload is not None:
                upload.cancel()
            writer.close()


def _asked_once(request: Request) -> bytes:
    """The request's bytes, with `Connection: close`."""
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


async def _body(
    request: Request, head: bytes, reader: asyncio.StreamReader
) -> AsyncGenerator[bytes, None]:
    """The body after `head`, in pieces: a chunk, a frame, or plain bytes as they are read.

    Raises EOFError if it is cut: aiohttp ends the connection when a stream fails.
    """
    if _status(head) == 101:
        while True:
            yield frame(*await read_frame(reader.readexactly))
    if request.method == "HEAD" or _status(head) in (204, 304):
        return
    if length := _LENGTH.search(head):
        left = int(length[1])
        while left:
            if not (piece := await reader.read(min(left, 64 * 1024))):
                raise EOFError
            left -= len(piece)
            yield piece
        return
    size = -1
    while size:
        line = await reader.readuntil(b"\r\n")
        size = int(line, 16)
        yield line + await reader.readexactly(size + 2)


def _status(head: bytes) -> int:
    return int(head.split(b" ", 2)[1])


_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")

# Hop-by-hop fields of the inner connection.
_CLOSE = re.compile(rb"(?i)\r\nconnection: close(?=\r\n)")


async def _pass_on(connection: Connection, writer: asyncio.StreamWriter) -> None:
    with suppress(Exception):
        while True:
            writer.write(await connection.read_some())
            await writer.drain()
