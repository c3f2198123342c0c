"""Server-sent events, read from bytes that may be cut anywhere.

https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6. `id:` and `retry:`
are not kept: nobody reconnects to a model's answer.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

#: Characters of one event. A tool call's arguments that come in one piece are the largest seen:
#: a file that the model writes. A megabyte is ten times a long one.
MAX_EVENT = 1024 * 1024

# CR alone ends a line too; CRLF is one end.
_LINE_END = re.compile(r"\r\n|\n|\r")


class EventTooLarge(Exception):
    """An event is over the limit; the rest of the stream cannot be read."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """`name` is empty where the server gave none; lines of data are joined by newlines."""

    name: str
    data: str


class EventParser:
    """One stream. An event that the stream's end cut off is never given out, as the spec says."""

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self._max_event = max_event
        # Bytes that are no UTF-8 become U+FFFD; the spec's "UTF-8 decode" drops a leading BOM.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._parts: list[str] = []  # of a line whose end has not come
        self._size = 0  # characters held: the parts, and the event so far
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
        # Kept in mind, not waited for: a CR at the end must not hold its line back.
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
            # A comment (": keepalive") or a field without use: it does not count as held.
            self._size -= len(line)
        return None

    def _end_of_event(self) -> ServerEvent | None:
        event = ServerEvent(self._name, "\n".join(self._data)) if self._data else None
        self._name, self._size = "", 0
        self._data.clear()
        return event
