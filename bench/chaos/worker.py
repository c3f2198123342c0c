"""A worker that does what its requests tell it.

`python -m bench.chaos.worker NAME HOST PORT JOURNAL`: a process of its own, so that it can be
killed and stopped for real. The journal survives it: each line is appended by one `write`, before
the answer.

    arrives ID NAME                the head of a request has come, and its body has not yet
    began ID NAME                  the request has been read, and is being executed by NAME
    stuck ID BYTES                 no more than this was read for a while
    left ID NANOSECONDS BYTES      its client has left before the end; so much was sent

The nanoseconds are of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
import time
import traceback
from typing import TYPE_CHECKING, NamedTuple, cast
from zlib import crc32

import uvloop

from bench.chaos.asks import (
    CHUNKED,
    CUT,
    DIE,
    EVENTS,
    LAST_CHUNK,
    LENGTH,
    MORE,
    NONE,
    SHUT,
    WEBSOCKET_ACCEPT,
    Orders,
    chunk,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

HEALTH_TARGET = "/health"
READY = "ready"
_BACKLOG = 4096
_UNASKED = b"HTTP/1.1 200 OK\r\nX-Id: nobody\r\nX-Sum: 0\r\nContent-Length: 6\r\n\r\nnobody"
# Seconds. No event says "stuck": so long without room in the socket must do.
_STUCK_AFTER = 0.3
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ ]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ ]*chunked", re.IGNORECASE)
_WEBSOCKET = re.compile(rb"\r\nupgrade:[ ]*websocket", re.IGNORECASE)
_SWITCHED = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {WEBSOCKET_ACCEPT}\r\nX-Id: {{}}\r\nX-Worker: {{}}\r\n\r\n"
)


class Request(NamedTuple):
    method: str
    target: str
    body: bytes
    is_handshake: bool  # of a WebSocket


class Worker:
    """What the connections of one worker share."""

    def __init__(self, name: str, journal: str) -> None:
        self.name = name
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._journal = os.open(journal, flags, 0o644)

    def note(self, what: str) -> None:
        os.write(self._journal, what.encode() + b"\n")


class Connection(asyncio.Protocol):
    """One connection of the balancer: requests one after the other."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._received = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._orders: Orders | None = None  # that are being followed
        self._arriving = ""  # the id of a request whose head has come, and whose body has not
        self._is_tunnel = False  # echoes its input
        self._sent = 0
        self._stuck: asyncio.TimerHandle | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._is_tunnel:
            self._transport.write(data)
            return
        self._received += data
        self._next()

    def pause_writing(self) -> None:
        self._may_write.clear()
        loop = asyncio.get_running_loop()
        self._stuck = loop.call_later(_STUCK_AFTER, self._note_stuck)

    def resume_writing(self) -> None:
        self._may_write.set()
        if self._stuck is not None:
            self._stuck.cancel()

    def _note_stuck(self) -> None:
        if self._orders is not None:
            self._worker.note(f"stuck {self._orders.ident} {self._taken}")

    @property
    def _taken(self) -> int:
        """Bytes of the response that the kernel has taken."""
        return self._sent - self._transport.get_write_buffer_size()

    def eof_received(self) -> bool:
        self._client_left()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._client_left()

    def _client_left(self) -> None:
        orders, self._orders = self._orders, None
        if orders is not None:
            self._worker.note(f"left {orders.ident} {time.monotonic_ns()} {self._taken}")
        elif self._arriving:
            self._worker.note(f"left {self._arriving} {time.monotonic_ns()} 0")
            self._arriving = ""
        if self._task is not None:
            self._task.cancel()

    def _note_arrival(self) -> None:
        line, found, _ = bytes(self._received).partition(b" HTTP/1.1\r\n")
        if found and not self._arriving:
            self._arriving = Orders.parse(line.decode().partition(" ")[2]).ident
            self._worker.note(f"arrives {self._arriving} {self._worker.name}")

    def _next(self) -> None:
        if self._task is not None:
            return
        request = take_request(self._received)
        if request is None:
            self._note_arrival()
            return
        self._arriving = ""
        if request.target == HEALTH_TARGET:
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
            return
        self._orders = orders = Orders.parse(request.target)
        self._worker.note(f"began {orders.ident} {self._worker.name}")
        if request.is_handshake:
            self._is_tunnel = True
            self._transport.write(_SWITCHED.format(orders.ident, self._worker.name).encode())
            return
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._serve(orders, request), name=orders.ident)
        self._task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            traceback.print_exception(error)
        self._next()

    async def _serve(self, orders: Orders, request: Request) -> None:
        self._sent = 0
        if orders.wait:
            await asyncio.sleep(orders.wait / 1000)
        if orders.fault == DIE:
            self._end(orders)
            return
        head = _head(orders, request, self._worker.name)
        if request.method == "HEAD" or orders.framing == NONE:
            pieces: Iterator[bytes] = iter(())
        else:
            pieces = _body(orders)
        if orders.fault == MORE:
            # In one write with the answer. Bytes after its end can't be distinguished from the
            # answer to the next request, by any reader.
            await self._write(b"".join((head, *pieces, _UNASKED)))
        else:
            await self._write(head)
            for piece in pieces:
                await self._write(piece)
                if orders.pace:
                    await asyncio.sleep(orders.pace / 1000)
        if orders.fault in (CUT, SHUT):
            self._end(orders)
        self._orders = None

    def _end(self, orders: Orders) -> None:
        self._orders = None
        if orders.fault == CUT:
            self._transport.abort()
        else:
            self._transport.close()

    async def _write(self, data: bytes) -> None:
        await self._may_write.wait()
        self._transport.write(data)
        self._sent += len(data)


def _head(orders: Orders, request: Request, name: str) -> bytes:
    lines = [f"HTTP/1.1 {'204 No Content' if orders.framing == NONE else '200 OK'}"]
    lines += [f"X-Id: {orders.ident}", f"X-Worker: {name}", f"X-Sum: {crc32(request.body)}"]
    if orders.framing == LENGTH:
        lines.append(f"Content-Length: {orders.length}")
    elif orders.framing in (CHUNKED, EVENTS):
        lines.append("Transfer-Encoding: chunked")
    if orders.framing == EVENTS:
        lines.append("Content-Type: text/event-stream")
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def _body(orders: Orders) -> Iterator[bytes]:
    """As it is sent, in pieces that are made when they are asked for; half of the first, if cut."""
    rng = random.Random(orders.ident)
    is_chunked = orders.framing in (CHUNKED, EVENTS)
    is_cut = orders.fault in (CUT, SHUT)
    blocks = map(orders.block, range(orders.blocks))
    for piece in blocks if orders.pace else orders.pieces():
        if is_cut:
            yield _framed(piece[: len(piece) // 2], is_chunked, rng)
            return
        yield chunk(piece) if orders.pace and is_chunked else _framed(piece, is_chunked, rng)
    if is_chunked and not is_cut:
        yield LAST_CHUNK


def _framed(data: bytes, is_chunked: bool, rng: random.Random) -> bytes:
    """In up to three chunks, cut anywhere."""
    if not is_chunked or not data:
        return data
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    parts = data[: cuts[0]], data[cuts[0] : cuts[1]], data[cuts[1] :]
    return b"".join(chunk(part) for part in parts if part)


def take_request(received: bytearray) -> Request | None:
    """Cut the first whole request off `received`; None while there is none.

    It trusts the balancer's syntax, not its framing: what is not where it should be ends up in a
    checksum that is wrong, or in a target that can't be read.
    """
    head_end = received.find(b"\r\n\r\n") + 4
    if head_end < 4:
        return None
    head = bytes(received[:head_end])
    body, end = b"", head_end
    if match := _CONTENT_LENGTH.search(head):
        end += int(match[1])
        if len(received) < end:
            return None
        body = bytes(received[head_end:end])
    elif _CHUNKED.search(head):
        whole = _take_chunks(received, head_end)
        if whole is None:
            return None
        body, end = whole
    del received[:end]
    method, target, _ = head.partition(b"\r\n")[0].decode().split(" ")
    return Request(method, target, body, _WEBSOCKET.search(head) is not None)


def _take_chunks(received: bytearray, start: int) -> tuple[bytes, int] | None:
    """(the body, where it ends) of the chunks from `start` on; None while they have no end."""
    parts: list[bytes] = []
    while (line_end := received.find(b"\r\n", start)) >= 0:
        size = int(received[start:line_end], 16)
        data = line_end + 2
        start = data + size + 2
        if len(received) < start:
            return None
        if not size:
            return b"".join(parts), start
        parts.append(bytes(received[data : data + size]))
    return None


async def serve(name: str, host: str, port: int, journal: str) -> None:
    worker = Worker(name, journal)
    loop = asyncio.get_running_loop()
    await loop.create_server(
        lambda: Connection(worker), host, port, backlog=_BACKLOG, reuse_address=True
    )
    print(READY, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    _name, _host, _port, _path = sys.argv[1:]
    uvloop.run(serve(_name, _host, int(_port), _path))
