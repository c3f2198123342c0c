"""Peers that send as much as they can: clients of the balancer, and the server behind it.

    python -m bench.chaos.flood serve HOST PORT
    python -m bench.chaos.flood KIND HOST PORT CLIENTS SECONDS

The server answers a GET with two bytes, a GET of /chunks with chunks of one byte for as long as
they are taken, a GET of /large with 2 MB, and takes any upload without an answer. The clients send
`requests` one behind the other and read the answers, an upload in `chunks` of one byte with
extensions, `bodies` of JSON that take long to parse, or ask for /chunks (`responses`); those of
HTTP/2 are in `http2_flood`. At the end they say how many bytes went out, and how many answers came,
or connections were ended.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import sys
import time
from typing import cast

import uvloop

from bench.chaos import http2_flood

READY = "ready"
LARGE = 2_000_000
_BLOCK = 64 * 1024

_SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE + bytes(LARGE)
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _block(unit: bytes) -> bytes:
    return unit * (_BLOCK // len(unit))


_TINY = _block(b"1\r\na\r\n")

#: Bytes of JSON in one body of `bodies`.
JSON = 1_000_000
_JSON = b'{"s":"one","x":[%b0]}' % (b"{}," * (JSON // 3))

_GET = b"GET / HTTP/1.1\r\nHost: chaos.test\r\n\r\n"
# What each client begins with, and what it goes on with.
KINDS = {
    "requests": (b"", _block(_GET)),
    "chunks": (
        b"POST / HTTP/1.1\r\nHost: chaos.test\r\nTransfer-Encoding: chunked\r\n\r\n",
        _block(b"1;x\r\na\r\n"),
    ),
    "bodies": (
        b"",
        b"POST /turns/ HTTP/1.1\r\nHost: chaos.test\r\nContent-Length: %d\r\n\r\n%b"
        % (len(_JSON), _JSON),
    ),
    "responses": (b"GET /chunks HTTP/1.1\r\nHost: chaos.test\r\n\r\n", b""),
}


class _Server(asyncio.Protocol):
    def __init__(self) -> None:
        self._received = b""
        self._is_upload = False
        self._floods = False
        self._may_write = True
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._is_upload:
            return
        *heads, self._received = (self._received + data).split(b"\r\n\r\n")
        for head in heads:
            if head.startswith(b"POST"):
                self._is_upload = True
                return
            target = head.split(b" ", 2)[1]
            if target == b"/chunks":
                self._transport.write(_CHUNKED)
                self._floods = True
                self._flood()
            else:
                self._transport.write(_LARGE if target == b"/large" else _SMALL)

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        if self._floods:
            self._flood()

    def _flood(self) -> None:
        while self._may_write and not self._transport.is_closing():
            self._transport.write(_TINY)


async def serve(host: str, port: int) -> None:
    await asyncio.get_running_loop().create_server(_Server, host, port, backlog=4096)
    print(READY, flush=True)
    await asyncio.Event().wait()


class _Client:
    def __init__(self, address: tuple[str, int], begin: bytes, data: bytes) -> None:
        self.sock = socket.create_connection(address)
        self.sock.sendall(begin)
        self.sock.setblocking(False)
        self._data = data
        self.sent = 0
        self.answers = 0

    def send(self) -> None:
        self.sent += self.sock.send(self._data[self.sent % len(self._data) :])

    def receive(self) -> None:
        data = self.sock.recv(256 * 1024)
        if not data:
            raise ConnectionResetError("the balancer has closed")
        self.answers += data.count(b"HTTP/1.1 ")


def attack(kind: str, address: tuple[str, int], count: int, seconds: float) -> None:
    begin, data = KINDS[kind]
    selector = selectors.DefaultSelector()
    events = selectors.EVENT_READ | (selectors.EVENT_WRITE if data else 0)
    clients = [_Client(address, begin, data) for _ in range(count)]
    for client in clients:
        selector.register(client.sock, events, client)
    print(READY, flush=True)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for key, mask in selector.select(0.1):
            if mask & selectors.EVENT_READ:
                key.data.receive()
            if mask & selectors.EVENT_WRITE:
                key.data.send()
    print(sum(each.sent for each in clients), sum(each.answers for each in clients), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _, _, _host, _port = sys.argv
        uvloop.run(serve(_host, int(_port)))
    else:
        _, _kind, _host, _port, _count, _seconds = sys.argv
        _sizes = (_host, int(_port)), int(_count), float(_seconds)
        if _kind in http2_flood.MIXES:
            print(READY, flush=True)
            print(*uvloop.run(http2_flood.attack(_kind, *_sizes)), flush=True)
        else:
            attack(_kind, *_sizes)
