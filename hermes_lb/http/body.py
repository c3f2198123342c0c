"""Body framing: what one side sends -> what the other side gets. No I/O.

Each kind has `feed(data)`, which returns the bytes to pass on in the outgoing framing, `is_done`,
the `excess` that followed the end, and `end()` for when the sender's connection ends. Chunks
pass as the bytes they arrived in: there is no object per chunk, and in the common case no copy.

The work of one `feed` is bounded, whatever the bytes are: 256 KiB may hold 40,000 chunks. Bytes
beyond it are counted in `behind`, and parsed by `feed(b"")` in a later loop iteration.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from hermes_lb.errors import InvalidBody
from hermes_lb.http.fields import TOKEN
from hermes_lb.http.limits import CHUNK_EXTENSION_SIZE, TRAILERS_SIZE
from hermes_lb.http.request import CHUNKED
from hermes_lb.http.response import UNTIL_CLOSE
from hermes_lb.http.trailers import last_chunk, safe_line

LAST_CHUNK = b"0\r\n\r\n"

# RFC 9112 section 7.1. 15 hexadecimal digits are below 2^63.
SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n").match
# chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] ), section 7.1.1. The
# repetitions of characters are possessive, so a malformed line costs no more than its length. Those
# of groups are not: CPython up to 3.11.4 matches them wrongly (gh-106052), "5;" as a whole line.
_NAME = TOKEN + rb"+"
_QUOTED = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+'
_EXTENSION = (
    rb"(?:[\t ]*+;[\t ]*+" + _NAME
    + rb"(?:[\t ]*+=[\t ]*+(?:" + _NAME + rb"|" + _QUOTED + rb'"))?)'
)  # fmt: skip
_EXTENSION_BEGUN = (
    rb"[\t ]*+(?:;[\t ]*+(?:" + _NAME
    + rb"[\t ]*+(?:=[\t ]*+(?:" + _NAME + rb"|" + _QUOTED + rb"\\?+)?)?)?)?"
)  # fmt: skip
_SIZE_LINE_EXTENDED = re.compile(rb"([0-9A-Fa-f]{1,15})" + _EXTENSION + rb"*\r\n").match
_TRAILER = re.compile(TOKEN + rb":[\t\x20-\x7e\x80-\xff]*").fullmatch
# Beginnings of such lines.
_SIZE_LINE_BEGUN = re.compile(
    rb"[0-9A-Fa-f]{0,15}|[0-9A-Fa-f]{1,15}" + _EXTENSION + rb"*(?:\r|" + _EXTENSION_BEGUN + rb")"
).fullmatch
_TRAILER_BEGUN = re.compile(rb"\r?|" + TOKEN + rb"(?::[\t\x20-\x7e\x80-\xff]*\r?)?").fullmatch
_LONGEST_SIZE_LINE = 15 + 1 + CHUNK_EXTENSION_SIZE

# Chunks that one `feed` parses: a quarter of a millisecond, as long as a few small requests take.
MOST_CHUNKS = 256
_SMALLEST_CHUNK = len(b"1\r\na\r\n")
#: Bytes; a read up to this size is never left behind, not even a part of a chunk before it.
NEVER_BEHIND = (MOST_CHUNKS - 1) * _SMALLEST_CHUNK

_AT_SIZE = -1
_AT_TRAILERS = -2


#: Bytes. Tokens of models are shorter; a longer chunk is parsed, which costs it little.
MOST_KNOWN: Final = 1024


def openings(first: bytes = b"") -> list[tuple[bytes, ...]]:
    """By its length in bytes, what a chunk begins with that has come whole and begins with `first`.

    For short ones, such as a token of a stream, with the size as servers write it: without zeros
    before it, in either case. So one comparison shows that the bytes are one chunk.
    """
    by_length: list[tuple[bytes, ...]] = [()] * (MOST_KNOWN + 1)
    for size in range(1, MOST_KNOWN):
        line = b"%x\r\n" % size
        length = len(line) + size + 2
        if length <= MOST_KNOWN:
            by_length[length] = (line + first, line.upper() + first)
    return by_length


_OPENINGS = openings()


class Body(Protocol):
    """A message body that is being relayed."""

    is_done: bool
    excess: bytes

    @property
    def behind(self) -> int:
        """Bytes that were fed and not parsed yet: `feed` again, with or without more."""

    def feed(self, data: bytes) -> bytes:
        """Bytes as they came -> bytes to pass on (maybe none). Raises InvalidBody."""

    def end(self) -> bytes:
        """The sender's connection ended -> the last bytes. Raises InvalidBody if too early."""


class LengthBody:
    """A body of a known length (Content-Length)."""

    __slots__ = ("_left", "excess", "is_done")

    behind = 0  # a feed costs the same whatever the bytes are

    def __init__(self, length: int) -> None:
        self._left = length
        self.is_done = length == 0
        self.excess = b""

    def feed(self, data: bytes) -> bytes:
        left = self._left - len(data)
        if left > 0:
            self._left = left
            return data
        self._left = 0
        self.is_done = True
        if left == 0:
            return data
        self.excess = data[left:]
        return data[:left]

    def end(self) -> bytes:
        raise InvalidBody(f"the body ended {self._left} bytes early")


class UntilCloseBody:
    """A body that ends with its connection. Chunked on the way out, so that its end can be seen."""

    __slots__ = ("_chunked", "excess", "is_done")

    behind = 0

    def __init__(self, *, chunked: bool) -> None:
        self._chunked = chunked
        self.is_done = False
        self.excess = b""

    def feed(self, data: bytes) -> bytes:
        # A chunk of size 0 would be the last one.
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and data else data

    def end(self) -> bytes:
        self.is_done = True
        return LAST_CHUNK if self._chunked else b""


class ChunkedBody:
    """A chunked body, checked as it passes. Extensions are dropped.

    With `keep_chunks` the framing stays (HTTP/1.1), without it only the data does (HTTP/1.0).
    `trailers`: the lines that may pass, if the receiver `takes_trailers`. A part of a size line or
    of a chunk's end waits here until the rest of it has come.
    """

    __slots__ = (
        "_held",
        "_keep",
        "_left",
        "_position",
        "_takes_trailers",
        "_trailers_left",
        "behind",
        "excess",
        "is_done",
        "trailers",
    )

    def __init__(self, *, keep_chunks: bool, takes_trailers: bool = False) -> None:
        self._trailers_left = TRAILERS_SIZE
        self._takes_trailers = takes_trailers
        self.trailers = b""
        self._keep = keep_chunks
        self._held = b""
        self._position = 0  # in `_held`: what is before has been parsed
        self._left = _AT_SIZE  # or bytes of chunk data still to come, or _AT_TRAILERS
        self.behind = 0
        self.is_done = False
        self.excess = b""

    @property
    def is_between_chunks(self) -> bool:
        """True where the next byte begins a chunk."""
        return self._left == _AT_SIZE and not self._held

    def feed(self, data: bytes) -> bytes:
        if self._left == _AT_SIZE and not self._held:
            # One whole chunk: a server's flush, such as a token of a stream.
            size = len(data)
            if size <= MOST_KNOWN and data.startswith(_OPENINGS[size]) and data.endswith(b"\r\n"):
                return data if self._keep else data[data.find(b"\n") + 1 : -2]
        return self._feed_anything(data)

    def _feed_anything(self, data: bytes) -> bytes:
        start = 0
        if self._held:
            if data:
                data = self._held[self._position :] + data
            else:
                data, start = self._held, self._position
            self._held = b""
            self._position = self.behind = 0
        size = len(data)
        keep = self._keep
        left = self._left
        passed: list[bytes] = []  # what leaves before `data[start:]`
        position = start
        for _ in range(MOST_CHUNKS):
            if left == _AT_SIZE:
                match = SIZE_LINE(data, position)
                if match is not None:
                    left = int(match[1], 16)
                    after = match.end()
                    if left == 0 or not keep:
                        passed.append(data[start:position])
                        start = after
                    position = after
                elif (found := self._unusual_size(data, position)) is not None:
                    left, after = found
                    passed.append(data[start:position])
                    if keep and left:
                        passed.append(b"%x\r\n" % left)
                    start = position = after
                else:
                    break  # the rest of the line has not come yet
                if left == 0:
                    left = _AT_TRAILERS
            if left == _AT_TRAILERS:
                break
            end = position + left
            if size < end:
                left = end - size
                position = size
                break
            if data.startswith(b"\r\n", end):
                if not keep:
                    passed.append(data[start:end])
                    start = end + 2
                position = end + 2
                left = _AT_SIZE
                if position == size:
                    break
            elif size - end >= 2 or not b"\r\n".startswith(data[end:]):
                raise InvalidBody("a chunk is longer than its size")
            else:
                left = 0
                position = end
                break  # half of the chunk's end has not come yet
        else:
            self.behind = size - position
        self._left = left
        if start == 0 and position == size:
            return data
        passed.append(data[start:position])
        if self.behind:
            self._held = data
            self._position = position
        elif left == _AT_TRAILERS:
            passed.append(self._feed_trailers(data[position:]))
        else:
            self._held = data[position:]
        return b"".join(passed)

    def _unusual_size(self, data: bytes, position: int) -> tuple[int, int] | None:
        """A size line with an extension -> its size and its end, or None: not all here yet."""
        match = _SIZE_LINE_EXTENDED(data, position, position + _LONGEST_SIZE_LINE + 2)
        if match is not None:
            return int(match[1], 16), match.end()
        if len(data) - position > _LONGEST_SIZE_LINE + 1:
            raise InvalidBody("a chunk size line is malformed or too long")
        if not _SIZE_LINE_BEGUN(data, position):
            raise InvalidBody("malformed chunk size line")
        return None

    def _feed_trailers(self, data: bytes) -> bytes:
        start = 0
        while not data.startswith(b"\r\n", start):
            end = data.find(b"\r\n", start, start + self._trailers_left)
            if end < 0:
                if len(data) - start > self._trailers_left:
                    raise InvalidBody("the trailers are too long")
                if not _TRAILER_BEGUN(data, start):
                    raise InvalidBody("malformed trailers")
                self._held = data[start:]
                return b""
            if not _TRAILER(data, start, end):
                raise InvalidBody("malformed trailers")
            if self._takes_trailers:
                self.trailers += safe_line(data[start:end])
            self._trailers_left -= end + 2 - start
            start = end + 2
        self.is_done = True
        self.excess = data[start + 2 :]
        return last_chunk(self.trailers) if self._keep else b""

    def end(self) -> bytes:
        raise InvalidBody("the body ended without its last chunk")


def make_body(length: int, *, to_http11: bool, takes_trailers: bool = False) -> Body:
    """The body that a head announced, for a receiver that does or does not know chunks."""
    if length == CHUNKED:
        return ChunkedBody(keep_chunks=to_http11, takes_trailers=takes_trailers)
    if length == UNTIL_CLOSE:
        return UntilCloseBody(chunked=to_http11)
    return LengthBody(length)


def feed_all(body: Body, data: bytes) -> bytes:
    """All of `data`, which another body has passed on: so it is bounded, and well framed."""
    passed = body.feed(data)
    while body.behind:
        passed += body.feed(b"")
    return passed
