"""An incremental parser of server-sent events.

https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6. `id:` and `retry:`
are ignored: an answer of a model is not resumed by reconnecting.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

#: Characters of one event. The largest ones seen are arguments of a tool call in one piece, a file
#: that the model writes. A megabyte is ten times a long file.
MAX_EVENT = 1024 * 1024

# CR alone ends a line as well; CRLF is one end.
_LINE_END = re.compile(r"\r\n|\n|\r")


class EventTooLarge(Exception):
    """An event exceeds the limit; the rest of the stream cannot be read."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """`name` may be empty; lines of data are joined by newlines."""

    name: str
    data: str


class EventParser:
    """Of one stream. An incomplete event at the end of the stream is dropped, as specified."""

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self._max_event = max_event
        # Invalid UTF-8 becomes U+FFFD; "UTF-8 decode" of the specification drops a leading BOM.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._parts: list[str] = []  # of an incomplete line
        self._size = 0  # characters held: the parts and the event so far
        self._after_cr = False
        self._name = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[ServerEvent]:
        """The events that `data` completes. Raises EventTooLarge."""
        text = self._decoder.decode(data)
        if not text:
            return []
        if self._after_cr:
            text = text.removeprefix("\n")
        # Remembered, not awaited: a CR at the end must not delay its line.
        self._after_cr = text.endswith("\r")
        *lines, rest = _LINE_END.split(text)
        events = []
        for line in lines:
            self._hold(line)
            event = self._line("".join(self._parts))
            self._parts.clear()
            if event is not None:
                events.append(event)
        if rest:
            self._hold(rest)
        return events

    def _hold(self, part: str) -> None:
        self._parts.append(part)
        self._size += len(part)
        if self._size > self._max_event:
            raise EventTooLarge

    def _line(self, line: str) -> ServerEvent | None:
        if not line:
            return self._end_of_event()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        else:
            # A comment (": keepalive") or an ignored field: it is not held.
            self._size -= len(line)
        return None

    def _end_of_event(self) -> ServerEvent | None:
        event = ServerEvent(self._name, "\n".join(self._data)) if self._data else None
        self._name, self._size = "", 0
        self._data.clear()
        return event
