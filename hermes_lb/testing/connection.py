"""One connection of a test server: a bare socket, so that it can misbehave byte by byte."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, NoReturn

from hermes_lb.testing.messages import Reply, Request, head_of

if TYPE_CHECKING:
    from hermes_lb.testing.faults import Fault
    from hermes_lb.testing.servers import Server

_READ = 64 * 1024
_LINGER_0 = struct.pack("ii", 1, 0)  # close() then sends RST


class Over(Exception):
    """The connection has ended, by either side."""


class Wire:
    """Where a fault writes a reply. `sent` counts bytes of this reply."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.server = server
        self.sent = 0
        self._sock = sock

    async def send(self, data: bytes) -> None:
        """Send it all, or as much as the server's fault allows at a time."""
        while data:
            room = self.server.fault.room(self.sent)
            if room == 0:
                await self.server.another_fault()
                continue
            piece, data = (data, b"") if room is None else (data[:room], data[room:])
            await _send(self._sock, piece)
            self.sent += len(piece)

    def reset(self) -> NoReturn:
        """End it by RST."""
        with suppress(OSError):  # macOS refuses it once the other side has ended the connection
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        raise Over

    def close(self) -> NoReturn:
        """End it by FIN."""
        raise Over


class Connection:
    """Reads a request, sends its response, reads the next one."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._is_idle = True
        self._is_ending = False  # after the present request none is served
        self._server = server
        self._sock = sock
        self._unread = bytearray()

    async def run(self) -> None:
        """Serve until either side ends it."""
        try:
            while await self._serve_one():
                pass
        except Over:
            pass
        finally:
            self._sock.close()

    def end_when_idle(self) -> None:
        """Close it: at once, so that a peer that looks sees it, or after the present response."""
        self._is_ending = True
        if self._is_idle:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    async def _serve_one(self) -> bool:
        """Serve a request -> whether another one may follow."""
        request = await self._read_request()
        if self._is_ending:
            return False
        self._is_idle = False
        server = self._server
        fault = server.fault
        with server.asked_for(request):
            reply = await server.reply(request, fault, self)
            await self._send(reply, fault)
        self._is_idle = True
        is_last = request.is_websocket or (request.header("Connection") or "").lower() == "close"
        return not (is_last or self._is_ending)

    async def _send(self, reply: Reply, fault: Fault) -> None:
        async with aclosing(reply.pieces):
            await fault.send(reply, Wire(self._server, self._sock))

    async def _read_request(self) -> Request:
        request = Request.parse(await self.read_until(b"\r\n\r\n"))
        if request.header("Expect"):
            await _send(self._sock, head_of(100, {}))
        if request.header("Transfer-Encoding"):
            body = await self._read_chunks()
        else:
            body = await self.read_exactly(int(request.header("Content-Length") or 0))
        return Request(request.method, request.target, request.fields, body)

    async def _read_chunks(self) -> bytes:
        chunks = []
        while size := int(await self.read_until(b"\r\n"), 16):
            chunks.append(await self.read_exactly(size))
            await self.read_exactly(2)
        await self.read_until(b"\r\n")
        return b"".join(chunks)

    # Reading. All methods raise Over at the end.

    async def read_some(self) -> bytes:
        """At least a byte."""
        if not self._unread:
            await self._receive()
        return self._take(len(self._unread))

    async def read_exactly(self, size: int) -> bytes:
        while len(self._unread) < size:
            await self._receive()
        return self._take(size)

    async def read_until(self, mark: bytes) -> bytes:
        """Up to the end of `mark`."""
        while (found := self._unread.find(mark)) < 0:
            await self._receive()
        return await self.read_exactly(found + len(mark))

    def _take(self, size: int) -> bytes:
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data

    async def _receive(self) -> None:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._sock, _READ)
        except OSError as error:
            raise Over from error
        if not data:
            raise Over
        self._unread += data


async def _send(sock: socket.socket, data: bytes) -> None:
    """Raises Over if the peer has left, so that an OSError can only be the handler's own."""
    try:
        await asyncio.get_running_loop().sock_sendall(sock, data)
    except OSError as error:
        raise Over from error
