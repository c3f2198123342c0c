"""Requests to test servers, and their responses."""

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
    """A received request, its body unframed."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...]  # name and value, in their order
    body: bytes = b""

    @classmethod
    def parse(cls, head: bytes) -> Request:
        """Parse a complete head; the body follows."""
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
    """What a handler returns; a plain tuple also works.

    A body that is an async iterator is sent in chunks, each piece at once.
    """

    status: int = 200
    headers: Mapping[str, str] = {}
    body: Body = b""

    @classmethod
    def of(cls, returned: object) -> Answer:
        """Convert a handler's return value. Raises TypeError if it is invalid."""
        if not (isinstance(returned, tuple) and 1 <= len(returned) <= len(cls._fields)):
            raise TypeError(
                "a handler returns a status, headers and a body, as in "
                f'`return 200, {{}}, "text"`; this one returned {returned!r}'
            )
        return cls(*returned)


_Head: TypeAlias = "tuple[int] | tuple[int, Mapping[str, str]]"
Handler: TypeAlias = Callable[
    [Request], "Awaitable[Answer | _Head | tuple[int, Mapping[str, str], Body]]"
]


@dataclass(frozen=True, slots=True)
class Reply:
    """A response as bytes: the head, then the body in framed pieces."""

    pieces: AsyncGenerator[bytes, None]
    is_streamed: bool  # the pieces are the sender's: tokens, events, frames


def reply_to(request: Request, answer: Answer) -> Reply:
    """The bytes of `answer`, without a body where none is allowed.

    Raises ValueError or TypeError if it can't be sent; a stream raises as its pieces are made.
    """
    check_status(answer.status)
    if not isinstance(answer.headers, Mapping):
        raise TypeError(f"headers map names to values, as a dict does; not {answer.headers!r}")
    has_body = request.method != "HEAD" and answer.status not in (204, 304)
    if isinstance(answer.body, AsyncIterable):
        head = head_of(answer.status, _with("Transfer-Encoding", "chunked", answer.headers))
        return Reply(_chunked(head, answer.body, has_body), is_streamed=True)
    body = _raw(answer.body)
    head = head_of(answer.status, _with("Content-Length", str(len(body)), answer.headers))
    return Reply(_plain(head, body if has_body else b""), is_streamed=False)


def _with(name: str, value: str, headers: Mapping[str, str]) -> Mapping[str, str]:
    """Add a field, unless the answer has its own."""
    is_there = any(key.lower() == name.lower() for key in headers)
    return headers if is_there else {name: value, **headers}


def check_status(status: object) -> None:
    """Raises ValueError unless it is a final status, registered or not."""
    if status not in range(200, 1000):
        raise ValueError(f"a status is a number from 200 to 999, not {status!r}")


async def _plain(head: bytes, body: bytes) -> AsyncGenerator[bytes, None]:
    yield head
    if body:
        yield body


async def _chunked(
    head: bytes, body: AsyncIterable[str | bytes], has_body: bool
) -> AsyncGenerator[bytes, None]:
    yield head
    if not has_body:
        return
    pieces = aiter(body)
    try:
        async for piece in pieces:
            if raw := _raw(piece):
                yield b"%x\r\n%b\r\n" % (len(raw), raw)
        yield b"0\r\n\r\n"
    finally:
        # So that its `finally` runs now, and an error there belongs to this test.
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


def head_of(status: int, headers: Mapping[str, str]) -> bytes:
    """A response's head. Raises ValueError if a field is not latin-1."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}".encode(), *map(_field, headers.items())]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _field(field: tuple[str, str]) -> bytes:
    name, value = field
    try:
        return f"{name}: {value}".encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(
            f"header {name} has characters that latin-1 lacks: {value!r}; "
            "encode them, as urllib.parse.quote does"
        ) from None


def _raw(piece: object) -> bytes:
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, bytes):
        return piece
    raise TypeError(
        f"a body is text, bytes, or an async iterator of these; not {piece!r} (JSON: json.dumps)"
    )


def events(*data: str) -> Answer:
    """A stream of server-sent events, one per text, with ids from 1."""

    async def stream() -> AsyncIterator[str]:
        for number, text in enumerate(data, 1):
            lines = "".join(f"data: {line}\n" for line in text.split("\n"))
            yield f"id: {number}\n{lines}\n"

    return Answer(200, {"Content-Type": "text/event-stream"}, stream())
