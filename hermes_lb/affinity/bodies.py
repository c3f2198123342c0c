"""Session keys in the body of a response: a JSON text, the first events of a stream, or the packet
that opens a session of Engine.IO. Pure.

`feed` gets the body as it is relayed, and returns the keys that it names so far; `end` those of the
whole. A reader that `is_over` needs no more of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.http import UNTIL_CLOSE, make_body
from hermes_lb.http.body import feed_all
from hermes_lb.http.json_keys import MOST_READ, JsonText, parse
from hermes_lb.http.request import CHUNKED
from hermes_lb.http.sse import data_of, event_end

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb.http.json_keys import Pointer

# A stream names its session in the first or second event; before it there may be empty ones and
# notifications (MCP). Each is parsed, so that a stream without a key costs this number at most.
_MOST_EVENTS = 16


class BodyReader:
    """`is_chunked`: the body is relayed in chunks, and not as it is."""

    __slots__ = ("is_over", "_framing", "_pointers")

    def __init__(self, pointers: Sequence[Pointer], *, is_chunked: bool) -> None:
        self._pointers = pointers
        self._framing = make_body(CHUNKED if is_chunked else UNTIL_CLOSE, to_http11=False)
        self.is_over = False

    def feed(self, data: bytes) -> list[bytes]:
        raise NotImplementedError

    def end(self) -> list[bytes]:
        return []

    def _keys_in(self, text: bytes) -> list[bytes]:
        value = parse(text)
        return [key for pointer in self._pointers if (key := pointer.key_in(value))]


class JsonReader(BodyReader):
    """A JSON text. It is of no use to the client before its end, so neither are its keys."""

    __slots__ = ("_json",)

    def __init__(self, pointers: Sequence[Pointer], *, is_chunked: bool) -> None:
        super().__init__(pointers, is_chunked=is_chunked)
        self._json = JsonText(self._framing)

    def feed(self, data: bytes) -> list[bytes]:
        self._json.feed(data)
        self.is_over = self._json.is_too_long
        return []

    def end(self) -> list[bytes]:
        return self._keys_in(self._json.text)


class PacketReader(JsonReader):
    """The packet that opens a session of Engine.IO, Socket.IO's transport: `0{"sid": "..."}`."""

    __slots__ = ()

    def end(self) -> list[bytes]:
        text = self._json.text
        return self._keys_in(text[1:]) if text.startswith(b"0{") else []


class EventReader(BodyReader):
    """A stream of events: the keys of the first one that has any."""

    __slots__ = ("_events", "_read", "_rest")

    def __init__(self, pointers: Sequence[Pointer], *, is_chunked: bool) -> None:
        super().__init__(pointers, is_chunked=is_chunked)
        self._rest = bytearray()  # an event that is not complete
        self._read = 0  # bytes
        self._events = 0

    def feed(self, data: bytes) -> list[bytes]:
        new = feed_all(self._framing, data)
        rest = self._rest
        searched = max(0, len(rest) - 3)  # the two ends of lines have 4 bytes at most
        rest += new
        start = 0
        while (found := event_end(rest, searched)) is not None:
            self._events += 1
            keys = self._keys_in(data_of(bytes(rest[start : found.start()])))
            if keys or self._events == _MOST_EVENTS:
                self.is_over = True
                return keys
            start = searched = found.end()
        del rest[:start]
        self._read += len(new)
        self.is_over = self._read > MOST_READ
        return []
