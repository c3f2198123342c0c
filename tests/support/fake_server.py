"""Servers that misbehave in one chosen way."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Self

from tests.support.waiting import eventually

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def says(response: bytes) -> Behaviour:
    """Write `response`, then close."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response)
        await writer.drain()

    return behave


def answers(status: int, body: bytes = b"ok", headers: bytes = b"") -> Behaviour:
    """A proper response."""
    head = f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\n".encode()
    return says(head + headers + b"\r\n" + body)


async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read the request and do not answer until the other side closes."""
    await reader.read()


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close with RST."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def streams_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A response without an end, as fast as it is taken."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
        await writer.drain()


class FakeServer:
    """`async with FakeServer(answers(200)) as fake`: counts connections and keeps the requests."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.accepted = 0
        self.open = 0
        self.requests: list[bytes] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await eventually(lambda: self.open == 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.open += 1
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            await self.behaviour(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other side has left
        finally:
            self.open -= 1
            writer.close()
