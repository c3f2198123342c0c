"""Misbehaviour of servers as values: `server.fault = ResetAfter(100)`, or `None`.

A fault applies from the next request on; `Stall` also to present ones, until another fault (or
None) replaces it. Faults are stateless, so servers may share one. A custom fault is a subclass of
`Fault`. All raise ValueError for invalid parameters.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hermes_lb.testing.messages import Answer, check_status

if TYPE_CHECKING:
    from hermes_lb.testing.connection import Wire
    from hermes_lb.testing.messages import Reply, Request
    from hermes_lb.testing.servers import Server


@dataclass(frozen=True)
class Fault:
    """The base, without misbehaviour. Override any of its methods."""

    def begin(self, server: Server) -> None:
        """It replaces another fault."""
        server.listen()

    def replaces(self, request: Request, server: Server) -> Answer | None:
        """An answer in place of the handler's, which is not called then."""
        return None

    async def send(self, reply: Reply, wire: Wire) -> None:
        """Send the reply, or what is left of it; `wire.reset()` or `wire.close()` ends it."""
        async for piece in reply.pieces:
            await wire.send(piece)

    def room(self, sent: int) -> int | None:
        """How many more bytes may be sent after `sent` of this reply; None: all."""
        return None


@dataclass(frozen=True)
class Refuse(Fault):
    """Connections are refused. Open ones end after their present response."""

    def begin(self, server: Server) -> None:
        server.stop_listening()


@dataclass(frozen=True)
class Flap(Fault):
    """Listens for `up` seconds, refuses for `down` seconds, and so on."""

    up: float
    down: float

    def __post_init__(self) -> None:
        _check(self.up > 0 and self.down > 0, self, "up and down are seconds, above 0")

    def begin(self, server: Server) -> None:
        server.listen()
        server.in_background(self._flap(server))

    async def _flap(self, server: Server) -> None:
        while True:
            await asyncio.sleep(self.up)
            server.stop_listening()
            await asyncio.sleep(self.down)
            server.listen()


@dataclass(frozen=True)
class ResetAfter(Fault):
    """A reset (RST) after `size` bytes of the response, its head included."""

    size: int

    def __post_init__(self) -> None:
        _check(self.size >= 0, self, "size is in bytes, from 0")

    async def send(self, reply: Reply, wire: Wire) -> None:
        await _send_at_most(self.size, reply, wire)
        wire.reset()


@dataclass(frozen=True)
class CloseAfter(Fault):
    """A clean end (FIN) after `size` bytes of the response, its head included."""

    size: int

    def __post_init__(self) -> None:
        _check(self.size >= 0, self, "size is in bytes, from 0")

    async def send(self, reply: Reply, wire: Wire) -> None:
        await _send_at_most(self.size, reply, wire)
        wire.close()


async def _send_at_most(size: int, reply: Reply, wire: Wire) -> None:
    async for piece in reply.pieces:
        await wire.send(piece[: size - wire.sent])
        if wire.sent >= size:
            return


@dataclass(frozen=True)
class Stall(Fault):
    """Silence after `after` bytes of the response; one in progress stops at once."""

    after: int = 0

    def __post_init__(self) -> None:
        _check(self.after >= 0, self, "after is in bytes, from 0")

    def room(self, sent: int) -> int | None:
        return max(0, self.after - sent)


@dataclass(frozen=True)
class SlowTokens(Fault):
    """`interval` seconds before each piece of a stream, or before each byte of a plain body."""

    interval: float

    def __post_init__(self) -> None:
        _check(self.interval >= 0, self, "interval is in seconds, from 0")

    async def send(self, reply: Reply, wire: Wire) -> None:
        await wire.send(await anext(reply.pieces))
        async for piece in reply.pieces:
            for token in [piece] if reply.is_streamed else map(bytes, zip(piece, strict=True)):
                await asyncio.sleep(self.interval)
                await wire.send(token)


@dataclass(frozen=True)
class WrongLength(Fault):
    """`Content-Length` is `by` bytes too large (the end comes early) or, below 0, too small.

    A stream has no length: it ends without its last chunk.
    """

    by: int = 1

    def __post_init__(self) -> None:
        _check(self.by != 0, self, "by is how many bytes too many, or below 0 too few")

    async def send(self, reply: Reply, wire: Wire) -> None:
        head = await anext(reply.pieces)
        await wire.send(_LENGTH.sub(self._another, head))
        async for piece in reply.pieces:
            if reply.is_streamed and piece == _LAST_CHUNK:
                break
            await wire.send(piece)
        wire.close()

    def _another(self, length: re.Match[bytes]) -> bytes:
        return b"%b%d" % (length[1], max(0, int(length[2]) + self.by))


_LENGTH = re.compile(rb"(?i)(\r\ncontent-length: *)(\d+)")
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True)
class Garbage(Fault):
    """Bytes that are not HTTP, and the end."""

    data: bytes = b"\x16\x03\x01 this is not HTTP\r\n\r\n"

    async def send(self, reply: Reply, wire: Wire) -> None:
        await wire.send(self.data)
        wire.close()


@dataclass(frozen=True)
class Fail(Fault):
    """`status` in place of the response, for a share of the requests, chosen by `seed`."""

    status: int = 503
    rate: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_status(self.status)
        _check(0 <= self.rate <= 1, self, "rate is a share of the requests, from 0 to 1")

    def begin(self, server: Server) -> None:
        server.listen()
        server.rng.seed(self.seed)

    def replaces(self, request: Request, server: Server) -> Answer | None:
        if server.rng.random() < self.rate:
            return Answer(self.status, {}, f"{server.name} fails\n")
        return None


def _check(is_so: bool, fault: Fault, rule: str) -> None:
    if not is_so:
        raise ValueError(f"{fault!r}: {rule}")


__all__ = [
    "CloseAfter",
    "Fail",
    "Fault",
    "Flap",
    "Garbage",
    "Refuse",
    "ResetAfter",
    "SlowTokens",
    "Stall",
    "WrongLength",
]
