"""Who talks to the balancer from both sides: bare protocols that remember every byte."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, cast

from tests.differential.request_referees import LlhttpRequests
from tests.differential.response_referees import FIN, OPEN, RESET

if TYPE_CHECKING:
    from collections.abc import Callable

# What a client asks for behind a generated response, and what it must get.
MARKER_REQUEST = b"GET /marker HTTP/1.1\r\nHost: a\r\n\r\n"
MARKER_RESPONSE = (
    b"HTTP/1.1 200 OK\r\nDate: Tue, 01 Dec 2026 08:00:00 GMT\r\nContent-Length: 6\r\n\r\nmarker"
)

_RESET = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


class Peer(asyncio.Protocol):
    """One end of a connection; `ending` is how the other side ended it."""

    def __init__(self) -> None:
        self.transport = cast("asyncio.Transport", None)
        self.received = bytearray()
        self.ending = OPEN
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.ending = FIN
        return True  # we may still have something to say

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        if self.ending == OPEN:
            self.ending = FIN if error is None else RESET

    def send(self, data: bytes) -> None:
        """Nothing happens if the connection has gone."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def end(self, how: str = FIN) -> None:
        """Send a FIN, behind which we still read, or a RST."""
        if self.transport.is_closing():
            return
        if how == RESET:
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
        else:
            self.transport.write_eof()


class Answers:
    """What all connections of an origin have answered: the methods, in the order of the answers."""

    def __init__(self, early: int = 0) -> None:
        self.early = early  # a status: answer each head at once, before its body
        self.methods: list[bytes] = []

    def next(self, method: bytes) -> bytes:
        """The next answer; its body is its number."""
        body = b"answer %d" % len(self.methods)
        self.methods.append(method)
        head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (self.early or 200, len(body))
        return head if method == b"HEAD" else head + body


class Answering(Peer):
    """An origin's connection that answers all requests, as llhttp reads them."""

    def __init__(self, answers: Answers, note: Callable[[Answering], None]) -> None:
        super().__init__()
        self._answers = answers
        self._note = note  # called for each request, when its head has come
        self._reader = LlhttpRequests()
        self._answered = 0
        self._noted = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        reader = self._reader
        reader.feed(data)
        if reader.awaits_continue and not self._answers.early:
            reader.awaits_continue = False
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        for _ in reader.methods[self._noted :]:
            self._noted += 1
            self._note(self)
        ready = reader.methods if self._answers.early else reader.methods[: len(reader.messages)]
        for method in ready[self._answered :]:
            self._answered += 1
            self.send(self._answers.next(method))
        if reader.problem:
            self.transport.close()


class Scripted(Peer):
    """An origin's connection that answers with what it is given; and marker with marker."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if data.startswith(b"GET /marker"):
            self.send(MARKER_RESPONSE)
