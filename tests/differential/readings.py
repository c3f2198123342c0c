"""What a parser makes of the bytes of one connection, in a form that can be compared."""

from __future__ import annotations

import io
import re
import sys
from typing import NamedTuple

INCOMPLETE = "incomplete"  # a `problem`: more bytes are awaited

Fields = tuple[tuple[bytes, bytes], ...]  # names in lower case, values without blanks around


class Request(NamedTuple):
    """One request. `end`: where it ends in the stream; None if its parser does not tell."""

    method: bytes
    target: bytes
    version: bytes
    fields: Fields
    body: bytes
    end: int | None

    def __repr__(self) -> str:
        return f"<{_line(self.method, self.target)} {dict(self.fields)} {self.body!r}>"

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]

    @property
    def options(self) -> set[bytes]:
        """What Connection says, in lower case."""
        return options(self.fields)

    @property
    def closes(self) -> bool:
        """True if nothing may come behind it (RFC 9112 section 9.3)."""
        if b"close" in self.options:
            return True
        return self.version == b"1.0" and b"keep-alive" not in self.options


class Requests(NamedTuple):
    """A stream of requests: the complete ones, and why there are no more.

    `problem` is "" where the stream ends behind a request, `INCOMPLETE`, or a refusal.
    """

    messages: list[Request]
    problem: str


class Response(NamedTuple):
    """A final response. `informational`: the statuses before it, but for 100.

    http.client hides each 100 from its caller.
    """

    status: int
    fields: Fields
    body: bytes
    end: int | None
    informational: tuple[int, ...] = ()

    @property
    def options(self) -> set[bytes]:
        """What Connection says, in lower case."""
        return options(self.fields)


class Answer(NamedTuple):
    """A stream's first final response; None, and a `problem`, if it is malformed or cut."""

    response: Response | None
    problem: str = ""


def normal(fields: list[tuple[bytes, bytes]]) -> Fields:
    """In an order of our own, since parsers differ in theirs."""
    return tuple(sorted(_field(name.lower(), value.strip(b" \t")) for name, value in fields))


def _field(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    # h11 writes codings in lower case, in which they are the same (RFC 9112 section 7).
    return name, value.lower() if name == b"transfer-encoding" else value


def options(fields: Fields) -> set[bytes]:
    """The options of all Connection fields, in lower case."""
    values = b",".join(value for name, value in fields if name == b"connection")
    return {option.strip(b" \t") for option in values.lower().split(b",")} - {b""}


_EXTENDED = re.compile(rb"(?<=\n)([0-9A-Fa-f]+)[ \t]*;[^\r\n]*(?=\r\n)")


def without_extensions(stream: bytes) -> bytes:
    """Chunks as those have to read them who know all of RFC 9112 section 7.1.1.

    It allows blanks around the parts of an extension, which each of the referees refuses somewhere.
    """
    return _EXTENDED.sub(rb"\1", stream)


def _line(*parts: bytes) -> str:
    return b" ".join(parts).decode("latin-1")


class File(io.BytesIO):
    """For parsers that read from a file, and take its end for the end of what they read."""

    has_run_out = False  # more was wanted than was there

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self.has_run_out |= not line.endswith(b"\n")
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(None if size is None else min(size, sys.maxsize))
        self.has_run_out |= size is not None and len(data) < size
        return data

    def close(self) -> None:
        """Not now: its position is still of interest."""

    def makefile(self, mode: str) -> File:
        """http.client reads from sockets."""
        return self
