"""What a client asks and what a worker answers: both derive every byte from the request's id.

So a response that belongs to another request, or a piece of one, can't be taken for the right one:
each block of a body begins with the id.

The target says what the worker shall do: `/FRAMING/BLOCKS/WAIT/PACE/FAULT/ID`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = 64 * 1024  # bytes of a large body that are made at a time

# How a response's body is framed.
LENGTH, CHUNKED, EVENTS, NONE = "length", "chunked", "events", "none"
# What a worker does beside or instead of an honest answer: nothing; half of the body and then a
# reset, or a clean end; an end without a head; another response after it, which was not requested.
HONEST, CUT, SHUT, DIE, MORE = "-", "cut", "shut", "die", "more"

# The fields of a request for a tunnel, which echoes all bytes (RFC 6455, 1.3).
WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
WEBSOCKET_ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class Orders(NamedTuple):
    """A target taken apart."""

    framing: str  # of the response
    blocks: int  # of its body; 0 and NONE: 204
    wait: int  # ms before the head
    pace: int  # ms between two blocks; 0: as fast as they are taken
    fault: str
    ident: str

    @classmethod
    def parse(cls, target: str) -> Orders:
        _, framing, blocks, wait, pace, fault, ident = target.split("/")
        return cls(framing, int(blocks), int(wait), int(pace), fault, ident)

    @property
    def target(self) -> str:
        return f"/{self.framing}/{self.blocks}/{self.wait}/{self.pace}/{self.fault}/{self.ident}"

    def block(self, number: int) -> bytes:
        if self.framing == EVENTS:
            return b"id: %d\ndata: %b %d\n\n" % (number, self.ident.encode(), number)
        return b"%b %08d\n" % (self.ident.encode(), number)

    def body(self) -> bytes:
        return b"".join(map(self.block, range(self.blocks)))

    @property
    def length(self) -> int:
        """Of the body. Blocks that are no events are all of one size."""
        return self.blocks * len(self.block(0)) if self.framing != EVENTS else len(self.body())

    def pieces(self) -> Iterator[bytes]:
        """The body in pieces, each made when it is asked for."""
        many = max(1, _PIECE // len(self.block(0)))
        for first in range(0, self.blocks, many):
            numbers = range(first, min(first + many, self.blocks))
            yield b"".join(map(self.block, numbers))


@dataclass(slots=True, frozen=True)
class Ask:
    """One request."""

    ident: str
    method: str = "GET"
    framing: str = LENGTH
    blocks: int = 1
    wait: int = 0
    pace: int = 0
    fault: str = HONEST
    sends: int = -1  # blocks of its own body; -1: it has none
    is_chunked: bool = False  # the request's body
    fields: tuple[str, ...] = ()

    @property
    def orders(self) -> Orders:
        return Orders(self.framing, self.blocks, self.wait, self.pace, self.fault, self.ident)

    @property
    def sent_body(self) -> bytes:
        return b"".join(b"%b sends %d\n" % (self.ident.encode(), n) for n in range(self.sends))

    @property
    def expected_body(self) -> bytes:
        return b"" if self.method == "HEAD" or self.framing == NONE else self.orders.body()

    @property
    def expected_sum(self) -> str:
        """What the worker must say that it got from us."""
        return str(crc32(self.sent_body))

    def wire(self) -> bytes:
        lines = [f"{self.method} {self.orders.target} HTTP/1.1", "Host: chaos.test", *self.fields]
        body = b""
        if self.sends >= 0:
            body = self.sent_body
            if self.is_chunked:
                lines.append("Transfer-Encoding: chunked")
                body = b"".join((*map(chunk, halves(body)), LAST_CHUNK))
            else:
                lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def halves(data: bytes) -> list[bytes]:
    """In one or two parts; none is empty, since an empty chunk would be the last."""
    middle = len(data) // 2
    return [part for part in (data[:middle], data[middle:]) if part]
