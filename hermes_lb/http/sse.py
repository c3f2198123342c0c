"""A response of server-sent events that may come from several servers, one after another. No I/O.

Only whole events are passed on, so the stream can change its server between any two of them, and
comments can be inserted there. The format is HTML Living Standard section 9.2.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from hermes_lb.errors import InvalidBody
from hermes_lb.http.body import (
    LAST_CHUNK,
    MOST_KNOWN,
    SIZE_LINE,
    ChunkedBody,
    make_body,
    openings,
)

if TYPE_CHECKING:
    from hermes_lb.http.body import Body

#: Bytes of one event; a longer one is passed on in parts, and its stream can't be resumed any more.
MOST_IN_EVENT: Final = 64 * 1024

# Bytes that one `feed` looks at: they may be 8,000 events, each of which may be a handover.
MOST_AT_ONCE: Final = 16 * 1024

# The end of a line, twice. Atomic: the two halves of CRLF are not two ends.
EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
LONGEST_END: Final = 4  # bytes
_OPENINGS = openings(b"id:")
_LINE_END = re.compile(rb"\r\n|\n|\r")
#: Searches the end of an event: the two line ends.
event_end = EVENT_END.search
_ID_LINE = re.compile(rb"(?:\A|(?<=[\r\n]))id(?::[^\r\n]*)?(?>\r\n|\n|\r)")


class EventsBody:
    """Whole events; a `Body`. `to_chunks`: they leave in chunks (HTTP/1.1), and not as they are.

    `resumes`: the stream ends with the event `done`, or where its framing says so, and not with
    the connection. `after`: the id after which it starts, if the client has sent one.
    `is_handed_over`: the server has asked that another one continues. `is_whole` is False once
    bytes have been passed on that end in the middle of an event.
    """

    __slots__ = (
        "_after",
        "_held",
        "_is_between_chunks",
        "_is_within_event",
        "_last",
        "_received",
        "_rest",
        "_resumes",
        "_searched",
        "_to_chunks",
        "excess",
        "is_done",
        "is_handed_over",
        "is_whole",
    )

    def __init__(
        self, length: int, *, resumes: bool, after: bytes = b"", to_chunks: bool = True
    ) -> None:
        self._resumes = resumes
        self._to_chunks = to_chunks
        self._after = after
        self._received: Body
        self._last = b""  # the last bytes that were passed on and hold an id
        self._held = bytearray()  # the beginning of an event; it grows in place
        self._searched = 0  # of `_held`: no event ends there
        self.is_whole = True
        self.go_on(length)

    def go_on(self, length: int) -> None:
        """The next bytes come from a server whose body has this length (`ResponseHead.length`).

        The incomplete event of the previous server is dropped.
        """
        self._received = make_body(length, to_http11=False)
        self._rest = b""
        # A whole chunk that comes here leaves as it is.
        self._is_between_chunks = self._to_chunks and isinstance(self._received, ChunkedBody)
        self._is_within_event = False  # the beginning of this one has been passed on
        self._held = bytearray()
        self._searched = 0
        self.excess = b""
        self.is_done = self._received.is_done
        self.is_handed_over = False

    @property
    def behind(self) -> int:
        """As of any `Body`: here also bytes that may hold too many events for one feed."""
        return 0 if self.is_done else self._received.behind + len(self._rest)

    @property
    def last_id(self) -> bytes:
        """Of the last event that was passed on and had one; `after` if none had."""
        last = self._after
        for line in _LINE_END.split(self._last):
            name, _, value = line.partition(b":")
            if name == b"id" and b"\0" not in value:
                last = value.removeprefix(b" ")
        return last

    @property
    def has_ended(self) -> bool:
        """Whether the last event was `done`: if anything is missing, it is framing."""
        return self._resumes and _is_done(self._last)

    def feed(self, data: bytes) -> bytes:
        if self._is_between_chunks and not self._held:
            # One whole chunk with one event, its id first: what servers send for each token.
            size = len(data)
            if (
                size <= MOST_KNOWN
                and data.startswith(_OPENINGS[size])
                and (data.find(b"\n\n") == size - 4 or _ends_crlf(data))
                and data.endswith(b"\r\n")
            ):
                self._last = data
                return data
        passed = self._feed_anything(self._portion(data))
        if self._rest:
            self._is_between_chunks = False  # the next bytes are those that wait
            if self.is_done:
                self.excess += self._rest
                self._rest = b""
        return passed

    def _portion(self, data: bytes) -> bytes:
        """What this feed looks at; the rest waits."""
        if len(data) <= MOST_AT_ONCE and not self.behind:
            return data
        self._rest += data
        if self._received.behind:
            return b""
        data = self._rest
        self._rest = data[MOST_AT_ONCE:]
        return data[:MOST_AT_ONCE]

    def end(self) -> bytes:
        """Not too early, if the last event was `done`: then only the framing is missing."""
        rest = b""
        if not self.has_ended:
            if self._resumes and self.is_whole:
                raise InvalidBody("the stream ended before its last event")
            self._received.end()
            rest = self.frame(bytes(self._held))
        self.is_done = True
        return rest + self._end

    def frame(self, events: bytes) -> bytes:
        """Whole events, as they leave."""
        return chunk(events) if self._to_chunks else events

    def comment(self, text: bytes) -> bytes:
        """A comment between two events, as it leaves."""
        return self.frame(text + b"\n\n")

    @property
    def _end(self) -> bytes:
        return LAST_CHUNK if self._to_chunks else b""

    def _feed_anything(self, data: bytes) -> bytes:
        received = self._received
        new = received.feed(data)
        held = self._held
        start = 0  # where to look for the ends of events
        came: bytes | bytearray = new
        if held:  # a piece costs what it has itself, however much of its event came before
            start = max(0, self._searched - LONGEST_END + 1)
            held += new
            came = held
        if isinstance(received, ChunkedBody):
            self._is_between_chunks = self._to_chunks and received.is_between_chunks
        if received.is_done:
            self.is_done, self.excess = True, received.excess
        first = 0  # where the first event begins
        if self._is_within_event:
            match = EVENT_END.search(came)
            first = match.end() if match is not None else len(came)
            self._is_within_event = match is None
        cut = len(came) if received.is_done else self._cut(came, first, start)
        if not cut and not received.is_done:
            if not held:
                held += new
            self._searched = len(held)
            return b""
        events = bytes(came) if cut == len(came) else bytes(came[:cut])
        if held or cut < len(came):
            self._held = bytearray(came[cut:])
            self._searched = len(self._held)
        if self._resumes and b"handover" in events:
            events = self._without_handover(events, first)
        passed = self.frame(events)
        if b"\nid:" in passed or passed.startswith(b"id:"):
            self._last = passed
        return passed + self._end if self.is_done and not self.is_handed_over else passed

    def _cut(self, came: bytes | bytearray, first: int, start: int) -> int:
        """The length of the part of `came` that is passed on now; its first event begins at
        `first`, and no event ends before `start`."""
        if not self._is_within_event:
            cut = max(first, end_of_last_event(came, start))
            if len(came) - cut <= MOST_IN_EVENT:
                return cut
            self.is_whole, self._is_within_event = False, True
        self._is_between_chunks = False  # for `feed`: the next one does not begin with an event
        return len(came.rstrip(b"\r\n"))  # two ends of a line, the event's end, stay together

    def _without_handover(self, events: bytes, start: int) -> bytes:
        for match in EVENT_END.finditer(events, start):
            if _type_of(events[start : match.start()]) == b"handover":
                self.is_done = self.is_handed_over = True
                # Its connection is in the middle of a response: it serves no other request.
                self.excess = events[start:]
                return events[:start]
            start = match.end()
        return events


class UnnumberedEventsBody(EventsBody):
    """The same, with the `id` lines left out of what is passed on."""

    __slots__ = ()

    def feed(self, data: bytes) -> bytes:
        is_within_event = self._is_within_event
        passed = super().feed(data)
        start, end = 0, len(passed)
        if self._to_chunks:
            match = SIZE_LINE(passed)
            start = match.end() if match is not None else 0
            end = start + int(match[1], 16) if match is not None else 0
        if start == end:
            return passed  # nothing, or the last chunk
        events = passed[start:end]
        first = 0  # where the first event begins
        if is_within_event:
            event_end = EVENT_END.search(events)
            first = event_end.end() if event_end is not None else len(events)
        events = events[:first] + _ID_LINE.sub(b"", events[first:])
        return self.frame(events) + passed[end + 2 :]


def _ends_crlf(data: bytes) -> bool:
    """The same for a server whose lines end with CRLF."""
    return data.find(b"\r\n\r\n") == len(data) - 6 and b"\n\n" not in data


def chunk(data: bytes) -> bytes:
    """As one chunk; nothing for nothing, since a chunk of size 0 would be the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def end_of_last_event(data: bytes | bytearray, start: int) -> int:
    """The end of the last whole event that ends after `start`; 0 if there is none."""
    # Nearly always one of these two; a server that mixes line ends is looked at closely.
    end = max(data.rfind(b"\n\n", start) + 2, data.rfind(b"\r\n\r\n", start) + 4)
    if end >= 4 and data.find(b"\r\r", start) < 0 and data.find(b"\n\r", end) < 0:
        return end
    return max((match.end() for match in EVENT_END.finditer(data, start)), default=0)


def data_of(event: bytes) -> bytes:
    """The data of an event: its `data` lines, as one text."""
    lines = (line.partition(b":") for line in _LINE_END.split(event))
    return b"\n".join(value.removeprefix(b" ") for name, _, value in lines if name == b"data")


def _type_of(event: bytes) -> bytes:
    kind = b"message"
    for line in _LINE_END.split(event):
        name, _, value = line.partition(b":")
        if name == b"event":
            kind = value.removeprefix(b" ")
    return kind


def _is_done(passed: bytes) -> bool:
    """Whether the last event in there is `done`."""
    events = [event for event in EVENT_END.split(passed) if event.strip()]
    return bool(events) and _type_of(events[-1]) == b"done"
