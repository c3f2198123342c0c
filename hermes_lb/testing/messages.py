"""What a server of the tests is asked, and what it answers."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
)
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import TypeAlias

Body: TypeAlias = "str | bytes | AsyncIterable[str | bytes]"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came to a server, its body unframed."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...]  # name and value, in their order
    body: bytes = b""

    @classmethod
    def parse(cls, head: bytes) -> Request:
        """From a whole head; the body is still to come."""
        first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        pairs = (line.partition(":") for line in lines)
        return cls(method, target, tuple((name, value.strip()) for name, _, value in pairs))

    def header(self, name: str) -> str | None:
        """The first value of a field, None if it is absent."""
        for key, value in self.fields:
            if key.lower() == name.lower():
                return value
        return None

    @property
    def is_websocket(self) -> bool:
        return (self.header("Upgrade") or "").lower() == "websocket"


class Answer(NamedTuple):
    """What a handler returns; a plain tuple of the same will do.

    A body that is an async iterator is sent in chunks, each of its pieces at once.
    """

    status: int = 200
    headers: Mapping[str, str] = {}
    body: Body = b""


Handler: TypeAlias = Callable[[Request], "Awaitable[Answer | tuple[int, Mapping[str, str], Body]]"]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as bytes: the head, then the pieces of the body in their framing."""

    pieces: AsyncGenerator[bytes, None]
    is_streamed: bool  # its pieces are the sender's own: tokens, events, frames


def reply_to(request: Request, answer: Answer) -> Reply:
    """The bytes of `answer`; without its body where a body must not be."""
    has_body = request.method != "HEAD" and answer.status not in (204, 304)
    if isinstance(answer.body, (str, bytes)):
        return Reply(_plain(answer, _raw(answer.body), has_body), is_streamed=False)
    return Reply(_chunked(answer, answer.body, has_body), is_streamed=True)


async def _plain(answer: Answer, body: bytes, has_body: bool) -> AsyncGenerator[bytes, None]:
    yield head_of(answer.status, {"Content-Length": str(len(body)), **answer.headers})
    if has_body and body:
        yield body


async def _chunked(
    answer: Answer, body: AsyncIterable[str | bytes], has_body: bool
) -> AsyncGenerator[bytes, None]:
    yield head_of(answer.status, {"Transfer-Encoding": "chunked", **answer.headers})
    if not has_body:
        return
    async for piece in body:
        if raw := _raw(piece):
            yield b"%x\r\n%b\r\n" % (len(raw), raw)
    yield b"0\r\n\r\n"


def head_of(status: int, headers: Mapping[str, str]) -> bytes:
    """A response's head."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {v}" for name, v in headers.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def _raw(piece: str | bytes) -> bytes:
    return piece.encode() if isinstance(piece, str) else piece


def events(*data: str) -> Answer:
    """A stream of server-sent events, one for each text, with ids from 1."""

    async def stream() -> AsyncIterator[str]:
        for number, text in enumerate(data, 1):
            lines = "".join(f"data: {line}\n" for line in text.split("\n"))
            yield f"id: {number}\n{lines}\n"

    return Answer(200, {"Content-Type": "text/event-stream"}, stream())
