"""The upstream that streams: `python -m bench.live.token_server PORT...`, one process, cheap.

    GET|POST /stream/RATE   an endless text/event-stream of RATE tokens/s, each with an id
    GET|POST /bare/RATE     the same without ids, as an OpenAI-compatible server sends it
    GET|POST /first         head at once, the first token 2 ms later, the end 2 ms after that
    GET      /ws            a WebSocket that echoes frames of the one known size
    anything else           the small JSON answer (for GET and POST where nginx is missing)

It trusts its clients, which are the proxies under test: it reads no more of a request than
where it ends. A stream ends when its client leaves.
"""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import time
from functools import partial
from typing import cast

import uvloop

from bench.live.messages import (
    CLIENT_FRAME,
    LAST_CHUNK,
    SERVER_FRAME,
    SMALL_BODY,
    SMALL_HEADERS,
    UPSTREAM_HEADER,
    WEBSOCKET_ACCEPT,
    token_chunk,
)
from bench.live.pacing import Pacer

FIRST_TOKEN_DELAY = 0.002  # s
_BACKLOG = 4096
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ ]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ ]*chunked", re.IGNORECASE)


class Answers:
    """What one listening port answers: heads made once, and the pacers of its streams."""

    def __init__(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        self.loop = loop
        self.pacers: dict[float, Pacer] = {}
        server = f"Server: tokens\r\n{UPSTREAM_HEADER}: {number}\r\n"
        extra = "".join(f"{name}: {value}\r\n" for name, value in SMALL_HEADERS.items())
        self.small = (
            f"HTTP/1.1 200 OK\r\n{server}{extra}Content-Length: {len(SMALL_BODY)}\r\n\r\n"
            f"{SMALL_BODY}"
        ).encode()
        self.stream = (
            f"HTTP/1.1 200 OK\r\n{server}Content-Type: text/event-stream; charset=utf-8\r\n"
            "Cache-Control: no-cache\r\nX-Hermes-Resume: /stream/again\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        ).encode()
        self.upgrade = (
            f"HTTP/1.1 101 Switching Protocols\r\n{server}Upgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Accept: {WEBSOCKET_ACCEPT}\r\n\r\n"
        ).encode()

    def pacer(self, rate: float) -> Pacer:
        if rate not in self.pacers:
            self.pacers[rate] = Pacer(self.loop, rate)
        return self.pacers[rate]


class Connection(asyncio.Protocol):
    """One connection of a proxy: requests one after another, until one never ends."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._received = b""
        self._pacer: Pacer | None = None
        self._sent = 0
        self._has_ids = True
        self._is_websocket = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        if self._is_websocket:
            self._echo()
            return
        while (end := _request_end(self._received)) is not None:
            request, self._received = self._received[:end], self._received[end:]
            self._answer(request.split(b" ", 2)[1])

    def _answer(self, path: bytes) -> None:
        if path.startswith((b"/stream/", b"/bare/")):
            _, kind, rate = path.split(b"/")
            self._has_ids = kind == b"stream"
            self._transport.write(self._answers.stream)
            self._pacer = self._answers.pacer(float(rate))
            self._pacer.add(self._send_token)
        elif path == b"/first":
            self._transport.write(self._answers.stream)
            loop = self._answers.loop
            loop.call_later(FIRST_TOKEN_DELAY, self._send_first, time.monotonic_ns())
        elif path == b"/ws":
            self._is_websocket = True
            self._transport.write(self._answers.upgrade)
        else:
            self._transport.write(self._answers.small)

    def _send_token(self) -> None:
        self._sent += 1
        self._transport.write(token_chunk(self._sent, has_id=self._has_ids))

    def _send_first(self, asked_ns: int) -> None:
        if self._transport.is_closing():
            return
        # Says how long it waited, so that the client can take this loop's jitter off.
        self._transport.write(token_chunk(1, extra=time.monotonic_ns() - asked_ns))
        self._answers.loop.call_later(FIRST_TOKEN_DELAY, self._end)

    def _end(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(LAST_CHUNK)

    def _echo(self) -> None:
        count, rest = divmod(len(self._received), len(CLIENT_FRAME))
        if count:
            self._transport.write(SERVER_FRAME * count)
            self._received = self._received[-rest:] if rest else b""

    def pause_writing(self) -> None:
        # A proxy 64 KiB behind does not hold the load: cut the stream, which the client reports.
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._pacer is not None:
            self._pacer.discard(self._send_token)


def _request_end(received: bytes) -> int | None:
    """Where the first request in `received` ends, or None while it has not."""
    head_end = received.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    body = head_end + 4
    if match := _CONTENT_LENGTH.search(received, 0, head_end):
        end = body + int(match[1])
        return end if len(received) >= end else None
    if _CHUNKED.search(received, 0, head_end):
        last = received.find(LAST_CHUNK, head_end)
        return None if last < 0 else last + len(LAST_CHUNK)
    return body


async def serve(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    for number, port in enumerate(ports, 1):
        answers = Answers(loop, number)
        await loop.create_server(partial(Connection, answers), "127.0.0.1", port, backlog=_BACKLOG)
    gc.freeze()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve([int(port) for port in sys.argv[1:]]))
