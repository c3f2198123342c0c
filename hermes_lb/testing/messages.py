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

    @classmethod
    def of(cls, returned: object) -> Answer:
        """What a handler returned. Raises TypeError if it is nothing of the kind."""
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
    """An answer as bytes: the head, then the pieces of the body in their framing."""

    pieces: AsyncGenerator[bytes, None]
    is_streamed: bool  # its pieces are the sender's own: tokens, events, frames


def reply_to(request: Request, answer: Answer) -> Reply:
    """The bytes of `answer`; without its body where a body must not be.

    Raises ValueError or TypeError if it cannot be sent; so do its pieces, as a stream is made.
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
    """A field that is sent first, unless the answer has one of its own."""
    is_there = any(key.lower() == name.lower() for key in headers)
    return headers if is_there else {name: value, **headers}


def check_status(status: object) -> None:
    """Raises ValueError unless it is that of a final response, whether registered or not."""
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
        # So that its own `finally` runs now, and an error there is this test's.
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
    """A stream of server-sent events, one for each text, with ids from 1."""

    async def stream() -> AsyncIterator[str]:
        for number, text in enumerate(data, 1):
            lines = "".join(f"data: {line}\n" for line in text.split("\n"))
            yield f"id: {number}\n{lines}\n"

    return Answer(200, {"Content-Type": "text/event-stream"}, stream())
