"""A scripted HTTP peer on a bare socket: a test reads as a transcript.

It reads and writes only when the test says so, and what it does not read stays in the kernel, so
back-pressure is real. Every wait is bounded by `PATIENCE`.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from typing import NamedTuple

from tests.support.waiting import PATIENCE, turns

_READ = 64 * 1024


class Ended(Exception):
    """The connection ended before what was waited for; `received` is what had come."""

    def __init__(self, received: bytes, *, by_reset: bool) -> None:
        super().__init__(f"{'reset' if by_reset else 'closed'} after {received[-200:]!r}")
        self.received = received
        self.by_reset = by_reset


class Head(NamedTuple):
    """A request's or a response's head."""

    raw: bytes
    start: str  # the first line
    fields: list[tuple[str, str]]

    @classmethod
    def parse(cls, raw: bytes) -> Head:
        """Strict: what the balancer sends is never allowed to be sloppy."""
        lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        fields = []
        for line in lines[1:]:
            match = re.fullmatch(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?(.*)", line)
            assert match, f"not a header field: {line!r} in {raw!r}"
            fields.append((match[1], match[2]))
        return cls(raw, lines[0], fields)

    @property
    def status(self) -> int:
        return int(self.start.split(" ")[1])

    @property
    def method(self) -> str:
        return self.start.split(" ")[0]

    @property
    def target(self) -> str:
        return self.start.split(" ")[1]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The one value of a field, None if it is absent; two of them fail the test."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} is there {len(values)} times: {values}"
        return values[0] if values else None


class Message(NamedTuple):
    """A head with its body, whatever the framing was."""

    head: Head
    body: bytes

    @property
    def status(self) -> int:
        return self.head.status

    def get(self, name: str) -> str | None:
        return self.head.get(name)


class Peer:
    """One end of a connection. `received` holds every byte that ever came."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.received = bytearray()
        self._taken = 0  # of `received`
        self._loop = asyncio.get_running_loop()

    # What leaves.

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._loop.sock_sendall(self.sock, data)

    async def send_bytewise(self, data: bytes) -> None:
        """Each byte in a segment of its own."""
        for i in range(len(data)):
            await self.send(data[i : i + 1])
            await turns(2)

    async def send_until_stuck(self, data: bytes, most: int) -> int:
        """Send `data` over and over until no more is taken -> how many bytes went out.

        They are `data` repeated, cut anywhere. It fails when `most` bytes were taken.
        """
        sent = 0
        stuck_since: float | None = None
        while sent < most:
            try:
                sent += self.sock.send(data[sent % len(data) :])
                stuck_since = None
                await turns(2)
            except BlockingIOError:
                # No event says "stuck": three tenths of a second without room must do.
                now = self._loop.time()
                stuck_since = stuck_since or now
                if now - stuck_since > 0.3:
                    return sent
                await asyncio.sleep(0.005)
        raise AssertionError(f"{sent} bytes were taken, and nothing held us back")

    async def send_until_refused(self, data: bytes, most: int = 256_000_000) -> None:
        """Send `data` over and over until the other side is seen to have gone."""
        for _ in range(most // len(data)):
            try:
                await self.send(data)
            except OSError:
                return
            await turns(1)
        raise AssertionError("everything was taken")

    def half_close(self) -> None:
        """FIN: we send no more, and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def abort(self) -> None:
        """RST."""
        if self.sock.fileno() >= 0:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()

    # What arrives.

    @property
    def unread(self) -> bytes:
        return bytes(self.received[self._taken :])

    def _take(self, size: int) -> bytes:
        taken = bytes(self.received[self._taken : self._taken + size])
        self._taken += size
        return taken

    async def _receive(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                data = await self._loop.sock_recv(self.sock, _READ)
        except TimeoutError:
            raise AssertionError(f"nothing came after {self.unread[-300:]!r}") from None
        except OSError:
            raise Ended(self.unread, by_reset=True) from None
        if not data:
            raise Ended(self.unread, by_reset=False)
        self.received += data

    async def read_some(self) -> bytes:
        """At least a byte."""
        if not self.unread:
            await self._receive()
        return self._take(len(self.unread))

    async def read_exactly(self, size: int) -> bytes:
        while len(self.received) - self._taken < size:
            await self._receive()
        return self._take(size)

    async def read_until(self, mark: bytes) -> bytes:
        """Up to the end of `mark`."""
        while (found := self.received.find(mark, self._taken)) < 0:
            await self._receive()
        return self._take(found + len(mark) - self._taken)

    async def read_to_end(self) -> bytes:
        """All that is left, up to a clean end; a reset raises Ended."""
        try:
            while True:
                await self._receive()
        except Ended as end:
            if end.by_reset:
                raise
            return self._take(len(self.unread))

    async def read_until_cut(self) -> bytes:
        """All that is left until the connection ends in any way."""
        try:
            return await self.read_to_end()
        except Ended:
            return self._take(len(self.unread))

    async def gets_nothing(self) -> bool:
        """True if there is nothing to read after several loop iterations."""
        await turns(10)
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return not self.unread
        except OSError:
            pass
        return False  # bytes, or an end

    async def read_head(self) -> Head:
        return Head.parse(await self.read_until(b"\r\n\r\n"))

    async def read_chunk(self) -> bytes:
        """The data of one chunk; b"" for the last one."""
        line = await self.read_until(b"\r\n")
        size = int(line, 16)
        data = await self.read_exactly(size)
        assert await self.read_exactly(2) == b"\r\n"
        return data

    async def read_body(self, head: Head, *, none: int | None = None) -> bytes:
        """By `head`'s framing; without any, `none` bytes, or up to a clean end."""
        length, coding = head.get("Content-Length"), head.get("Transfer-Encoding")
        assert length is None or coding is None, head
        if coding is not None:
            assert coding == "chunked"
            chunks = []
            while chunk := await self.read_chunk():
                chunks.append(chunk)
            return b"".join(chunks)
        if length is not None:
            return await self.read_exactly(int(length))
        return await self.read_to_end() if none is None else await self.read_exactly(none)


class Client(Peer):
    """A client of the balancer.

    `keeps`, `closes`: what Connection says on a response that another may follow, and on the last.
    """

    keeps: str | None = "keep-alive"
    closes: str | None = "close"

    async def get(self, target: str = "/", *fields: str, version: str = "1.1") -> None:
        """Send a GET without waiting for anything."""
        await self.send(request("GET", target, *fields, version=version))

    async def post(self, body: bytes, *fields: str, target: str = "/") -> None:
        await self.send(request("POST", target, *fields, body=body))

    async def ask(self, target: str = "/", *fields: str, version: str = "1.1") -> Message:
        """Send a GET -> its response."""
        await self.get(target, *fields, version=version)
        return await self.read_response()

    async def answer_to(self, wire: bytes) -> Message:
        """Send these bytes -> the next response."""
        await self.send(wire)
        return await self.read_response()

    async def read_response(self, *, method: str = "GET") -> Message:
        """The next response, with its body. Ended: it was cut."""
        head = await self.read_head()
        if method == "HEAD" or head.status < 200 or head.status in (204, 304):
            return Message(head, b"")
        return Message(head, await self.read_body(head))


class AtOrigin(Peer):
    """A connection that an origin has accepted."""

    async def read_request(self) -> Message:
        head = await self.read_head()
        return Message(head, await self.read_body(head, none=0))

    async def respond(self, body: bytes = b"", *fields: str, status: int = 200) -> None:
        await self.send(response(body, *fields, status=status))

    async def serves(self, client: Client, body: bytes) -> None:
        """Respond with this body, which is what this client reads next."""
        await self.respond(body)
        assert (await client.read_response()).body == body

    async def serves_the_next_of(self, client: Client) -> None:
        """Both connections go on: a request of this client comes here, and is answered."""
        await client.get("/next")
        assert (await self.read_request()).head.target == "/next"
        await self.serves(client, b"fine")


def request(
    method: str, target: str, *fields: str, body: bytes | None = None, version: str = "1.1"
) -> bytes:
    """A request's bytes; with a Host, and with a Content-Length if there is a body."""
    lines = [f"{method} {target} HTTP/{version}", *fields]
    if not any(field.lower().startswith("host:") for field in fields):
        lines.append("Host: balancer.test")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


# Heads of requests whose bodies are to come: in chunks, or longer than any test sends.
CHUNKED_POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS_POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99000000\r\n\r\n"


def response(body: bytes = b"", *fields: str, status: int = 200) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *fields, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
