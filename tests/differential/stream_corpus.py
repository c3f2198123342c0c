r"""Streams of HTTP/2 in files: what is sent, and what must come of it.

    what: a line end in a value is a field of its own to an origin.
    client: reset
    ---
    :method: GET
    :scheme: http
    :path: /
    :authority: a
    x-own: a\r\nx-b: c
    ---
    hello
    ---
    x-t: v

The keys are those of `corpus`: `client` is the status that the client gets, `reset`, or `closed`
where the connection ends; `origin` is the request that the origin gets, if it gets one. Below the
first line are the fields, in order, below the second the DATA, below the third trailers. Without
the second the head has END_STREAM. Escapes are those of `corpus`; a name ends before the first
": " behind its first byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.differential import corpus
from tests.differential.corpus import escape, unescape
from tests.differential.stream_grammar import StreamCase, wire_of

if TYPE_CHECKING:
    from tests.differential.stream_grammar import Fields

_LINE = "---\n"


@dataclass
class StreamFile:
    """One file. `client` empty: whatever comes of it, the judge agrees."""

    name: str
    what: str
    fields: Fields
    body: bytes | None = None
    trailers: Fields | None = None
    client: str = ""
    origin: bytes = b""

    def case(self) -> StreamCase:
        wire = wire_of(self.fields, self.body, self.trailers)
        return StreamCase([wire], self.fields, self.body, self.trailers)


def files() -> list[StreamFile]:
    """All of the folder."""
    return [read(each.stem, each.read_text("ascii")) for each in sorted(corpus.FOLDER.glob("*.h2"))]


def read(name: str, text: str) -> StreamFile:
    """Raises ValueError if the text is not as described above."""
    above, *parts = text.split(_LINE)
    keys = dict(line.split(": ", 1) for line in above.splitlines())
    if not 1 <= len(parts) <= 3 or keys.keys() - {"what", "client", "origin"} or "what" not in keys:
        raise ValueError(f"{name}: not a stream")
    return StreamFile(
        name,
        keys["what"],
        _fields(parts[0]),
        unescape(parts[1]) if len(parts) > 1 else None,
        _fields(parts[2]) if len(parts) > 2 else None,
        keys.get("client", ""),
        unescape(keys.get("origin", "")),
    )


def write(file: StreamFile) -> str:
    parts = [f"what: {file.what}\n", _lines(file.fields)]
    if file.body is not None:
        parts.append(f"{escape(file.body)}\n")
    if file.trailers is not None:
        parts.append(_lines(file.trailers))
    return _LINE.join(parts)


def _fields(text: str) -> Fields:
    fields: Fields = []
    for line in text.splitlines():
        end = line.index(": ", 1) if ": " in line[1:] else len(line) - 1
        fields.append((unescape(line[:end]), unescape(line[end + 2 :])))
    return fields


def _lines(fields: Fields) -> str:
    return "".join(f"{_name(name)}: {escape(value)}".rstrip(" ") + "\n" for name, value in fields)


def _name(name: bytes) -> str:
    return escape(name).replace(": ", r"\x3a ") or r"\*0{}"
