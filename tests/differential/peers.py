"""The balancer's peers on both sides: bare protocols that remember every byte."""

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
        self.sent = 0  # bytes
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
            self.sent += len(data)
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
    """What all connections of an origin have answered: methods and statuses, in that order.

    `early`: a status: answer each head at once, before its body. `refuses`: a status for what
    expects a 100. Neither reads the body before, and the connection is kept open.
    """

    def __init__(self, early: int = 0, refuses: int = 0) -> None:
        self.early = early
        self.refuses = refuses
        self.methods: list[bytes] = []
        self.statuses: list[int] = []

    def next(self, method: bytes, status: int = 0) -> bytes:
        """The next answer; its body is its number."""
        body = b"answer %d" % len(self.methods)
        self.methods.append(method)
        self.statuses.append(status or self.early or 200)
        head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (self.statuses[-1], len(body))
        return head if method == b"HEAD" else head + body


class Answering(Peer):
    """An origin's connection that answers all requests, as llhttp reads them.

    `spent_by`: an answer to a part of a request, or to one whose body was not asked for. A worse
    origin would take the rest for a request, so no other may follow: `reused_behind` is empty.
    """

    def __init__(self, answers: Answers, note: Callable[[Answering], None]) -> None:
        super().__init__()
        self._answers = answers
        self._note = note  # called for each request, when its head has come
        self._reader = LlhttpRequests()
        self._answered = 0
        self._noted = 0
        self._owed = b""  # the end of an early answer, until the request has ended
        self.spent_by = ""
        self.reused_behind = ""

    def pay(self) -> None:
        """Send the end of an early answer."""
        owed, self._owed = self._owed, b""
        self.send(owed)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        reader, answers = self._reader, self._answers
        reader.feed(data)
        if reader.awaits_continue and not (answers.early or answers.refuses):
            reader.awaits_continue = False
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if len(reader.messages) >= self._answered:
            self.pay()
        for _ in reader.methods[self._noted :]:
            self._noted += 1
            self._note(self)
            self.reused_behind = self.reused_behind or self.spent_by
        while self._answered < len(reader.methods):
            is_whole = self._answered < len(reader.messages)
            is_refused = bool(answers.refuses) and reader.expectations[self._answered]
            if not (is_whole or is_refused or answers.early):
                break
            if is_refused:
                self.spent_by = "a refused expectation"
            elif not is_whole:
                self.spent_by = "an early answer"
            status = answers.refuses if is_refused else 0
            method = reader.methods[self._answered]
            answer = answers.next(method, status)
            if not is_whole and method != b"HEAD":
                answer, self._owed = answer[:-1], answer[-1:]
            self.send(answer)
            self._answered += 1
        if reader.problem:
            self.transport.close()


class Scripted(Peer):
    """An origin's connection that answers with what it is given; and marker with marker."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if data.startswith(b"GET /marker"):
            self.send(MARKER_RESPONSE)
