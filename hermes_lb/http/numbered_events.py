"""An event stream in which each event gets an id, and is kept; a `Body`. No I/O.

The format is HTML Living Standard section 9.2. The ids allow a client to resume the stream behind
the last event that it has. The stream leaves with four differences:

- An event without an id of its own gets ours, as its first line, with the event's own line end.
- A block of comments loses the blank line behind it. With an id in effect, a client that takes a
  blank line for the end of an event would see an empty one (the OpenAI SDK does).
- Blank lines between events are dropped, for the same reason.
- The stream is framed for its receiver.

The kept events are the passed ones, without comments, and without an incomplete last event.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from hermes_lb.http.body import LAST_CHUNK, MOST_KNOWN, ChunkedBody, make_body, openings
from hermes_lb.http.sse import EVENT_END, LONGEST_END, MOST_AT_ONCE, chunk, end_of_last_event

# An event costs 2 us, and gets 50 bytes, however short it is. Bytes with more ends of lines than
# this, two for an event at least, are looked at in parts of this size.
_MOST_LINE_ENDS: Final = 1024
_PART: Final = 2048
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_LINE_FEED: Final = 10
# How the events of models begin. Others are passed on by the slower way.
_OPENINGS: Final = [
    usual + other for usual, other in zip(openings(b"data:"), openings(b"event:"), strict=True)
]
# The lengths of their chunks' first lines.
_FIRST_LINES: Final = [len(each[0]) - len(b"data:") if each else 0 for each in _OPENINGS]
_LINE_END = re.compile(rb"\r\n|\n|\r")
_ID = re.compile(rb"(?:\A|[\r\n])id(?=[:\r\n])")
# Digits only, or it is ignored (HTML section 9.2.6).
_RETRY = re.compile(rb"(?:\A|(?<=[\r\n]))retry: ?([0-9]{1,9})(?=[\r\n])")
_COMMENTS = re.compile(rb"((?::[^\r\n]*+(?>\r\n|\n|\r))+)(?>\r\n|\n|\r)").fullmatch


class EventLog(Protocol):
    """Keeps the events. An object and not two functions: a bound method takes 64 bytes."""

    def append(self, data: bytes, events: int) -> None:
        """Whole events, each with its id, and their count."""

    def skip(self) -> None:
        """An event of more than `most_in_event` bytes, which is passed on in parts."""


class RetryLog(Protocol):
    """Keeps the last `retry` field."""

    def retried(self, retry: bytes) -> None:
        """Its value."""


class NumberedEvents:
    """The events of one turn, from its first one on.

    - `prefix`: of our ids; the event's number follows, which counts all events from 1.
    - `to_chunks`: they leave in chunks (HTTP/1.1), and not as they are.
    - `adds_ids`: False for a server that can continue the stream. Only events of one connection
      have no id there, and ours would stand for other events at the next server.
    """

    __slots__ = (
        "_adds_ids",
        "_held",
        "_id_line",
        "_is_at_start",
        "_is_between_chunks",
        "_is_within_event",
        "_log",
        "_most_in_event",
        "_number",
        "_received",
        "_rest",
        "_retries",
        "_searched",
        "_to_chunks",
        "excess",
        "is_done",
    )

    def __init__(
        self,
        length: int,
        prefix: bytes,
        log: EventLog,
        *,
        most_in_event: int,
        to_chunks: bool = True,
        retries: RetryLog | None = None,
        adds_ids: bool = True,
    ) -> None:
        self._id_line = b"id: " + prefix
        self._log = log
        self._most_in_event = most_in_event
        self._to_chunks = to_chunks
        self._received = make_body(length, to_http11=False)
        self._is_between_chunks = to_chunks and isinstance(self._received, ChunkedBody)
        self._number = 0  # of the last event
        self._retries = retries
        self._adds_ids = adds_ids
        # The beginning of an event; it grows in place. None: there is nothing of one.
        self._held: bytearray | None = None
        self._searched = 0  # of `_held`: no event ends there
        self._rest = b""  # for later feeds
        self._is_at_start = True  # no event has come
        self._is_within_event = False  # the beginning of a long one has been passed on
        self.excess = b""
        self.is_done = self._received.is_done

    @property
    def behind(self) -> int:
        """As of any `Body`: here also bytes that may hold too many events for one feed."""
        return 0 if self.is_done else self._received.behind + len(self._rest)

    @property
    def is_between_events(self) -> bool:
        """A comment can be inserted after the bytes that were passed on."""
        return not (self._is_within_event or self.is_done)

    def feed(self, data: bytes) -> bytes:
        if self._is_between_chunks:
            # One whole chunk with one event: what servers send for each token.
            # `find` takes half of the time of `in`, and adding up less than formatting.
            size = len(data)
            if (
                size <= MOST_KNOWN
                and data.startswith(_OPENINGS[size])
                and data.find(b"\n\n") == size - 4
                and data.find(b"\r", _FIRST_LINES[size]) == size - 2
                and data[-1] == _LINE_FEED
                and data.find(b"\nid") < 0
                and data.find(b"\nretry") < 0
                and self._adds_ids
            ):
                self._number = number = self._number + 1
                event = self._id_line + b"%d\n" % number + data[_FIRST_LINES[size] : -2]
                self._log.append(event, 1)
                return b"%x\r\n%b\r\n" % (len(event), event)
        if len(data) > _PART or self.behind:
            data = self._portion(data)
        passed = self._framed(self._events(data))
        if self.is_done and self._rest:
            self.excess += self._rest
            self._rest = b""
        return passed

    def _portion(self, data: bytes) -> bytes:
        """The part of the received bytes that this feed looks at; the rest waits."""
        self._rest += data
        if self._received.behind:
            return b""
        part = self._rest[:MOST_AT_ONCE]
        if part.count(b"\n") + part.count(b"\r") > _MOST_LINE_ENDS:
            part = part[:_PART]
        self._rest = self._rest[len(part) :]
        return part

    def end(self) -> bytes:
        """The server's connection has ended. Raises InvalidBody if it is too early."""
        self._received.end()
        self.is_done = True
        return self._framed(self._incomplete(self._held or bytearray()))

    def _framed(self, events: bytes) -> bytes:
        if not self._to_chunks:
            return events
        return chunk(events) + LAST_CHUNK if self.is_done else chunk(events)

    def _events(self, data: bytes) -> bytes:
        """Bytes as they came -> the events that are whole by now, as they are passed on."""
        received, held = self._received, self._held or bytearray()
        start = max(0, self._searched - LONGEST_END + 1)
        held += received.feed(data)
        if received.is_done:
            self.is_done, self.excess = True, received.excess
        passed = self._rest_of_long_event(held) if self._is_within_event else b""
        if not self._is_within_event:
            came = held[:-1] if self._ends_in_half_a_line_end(held) else held
            cut = end_of_last_event(came, 0 if passed else start)
            if cut:
                passed += self._numbered(bytes(held[:cut]))
                del held[:cut]
            if len(held) > self._most_in_event:
                passed += self._begin_long_event(held)
        if self.is_done:
            passed += self._incomplete(held)
            held.clear()
        self._searched = len(held)
        self._held = held or None
        self._is_between_chunks = (
            self._to_chunks
            and not (held or self._rest or self._is_at_start or self._is_within_event)
            and isinstance(received, ChunkedBody)
            and received.is_between_chunks
        )
        return passed

    def _ends_in_half_a_line_end(self, held: bytearray) -> bool:
        """True behind CR LF CR: the LF is on its way, and belongs to the same event."""
        return not self.is_done and held.endswith(b"\r\n\r")

    def _incomplete(self, held: bytearray) -> bytes:
        """The event that the stream ends in; blank lines before it are dropped as all others."""
        return bytes(held if self._is_within_event else held.lstrip(b"\r\n"))

    def _begin_long_event(self, held: bytearray) -> bytes:
        self._number += 1
        self._log.skip()
        self._is_within_event = True
        if not self._adds_ids:
            return self._rest_of_long_event(held)
        line_end = _LINE_END.search(held)
        return (
            b"%b%d%b" % (self._id_line, self._number, line_end[0] if line_end else b"\n")
        ) + self._rest_of_long_event(held)

    def _rest_of_long_event(self, held: bytearray) -> bytes:
        match = EVENT_END.search(held)
        if match is not None and not (
            match.end() == len(held) and self._ends_in_half_a_line_end(held)
        ):
            self._is_within_event = False
            cut = match.end()
        else:
            cut = len(held.rstrip(b"\r\n"))  # two line ends, the event's end, stay together
        passed = bytes(held[:cut])
        del held[:cut]
        return passed

    def _numbered(self, events: bytes) -> bytes:
        """Whole events, each with its id; they are kept."""
        passed: list[bytes] = []
        kept: list[bytes] = []
        if self._is_at_start:
            self._is_at_start = False
            if events.startswith(_BYTE_ORDER_MARK):
                passed.append(_BYTE_ORDER_MARK)
                events = events[len(_BYTE_ORDER_MARK) :]
        start = 0
        for end in _ends(events):
            event = events[start:end].lstrip(b"\r\n")
            start = end
            if not event:
                continue
            comments = _COMMENTS(event) if event.startswith(b":") else None
            if comments is not None:
                passed.append(comments[1])
                continue
            self._number += 1
            if self._retries is not None and b"retry" in event:
                for retry in _RETRY.findall(event):
                    self._retries.retried(retry)
            if self._adds_ids and not _has_id(event):
                line_end = _LINE_END.search(event)
                assert line_end is not None
                event = b"%b%d%b%b" % (self._id_line, self._number, line_end[0], event)
            passed.append(event)
            if len(event) <= self._most_in_event:
                kept.append(event)
            else:
                self._keep_all(kept)
                self._log.skip()
        self._keep_all(kept)
        return b"".join(passed)

    def _keep_all(self, events: list[bytes]) -> None:
        if events:
            self._log.append(b"".join(events), len(events))
            events.clear()


def _ends(events: bytes) -> list[int]:
    """Where each of whole events ends."""
    if events.find(b"\r") >= 0:
        return [match.end() for match in EVENT_END.finditer(events)]
    # Nearly always. The expression takes 5 us for a token, since it has a choice at each byte.
    ends = []
    end = events.find(b"\n\n") + 2
    while end >= 2:
        ends.append(end)
        end = events.find(b"\n\n", end) + 2
    return ends


def _has_id(event: bytes) -> bool:
    """An `id` line; what the expression looks for is nearly never there at all."""
    if event.find(b"\nid") < 0 and event.find(b"\rid") < 0 and not event.startswith(b"id"):
        return False
    return _ID.search(event) is not None
