"""Ids of events, and where a client wants to go on. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from hermes_lb.http.sse import EVENT_END
from hermes_lb.proxy.turns.problems import TurnProblem

#: Bytes of an id of a server's own, behind which a stream can be resumed.
MOST_IN_ID: Final = 256

_OURS = re.compile(rb"h1\.([0-9A-Za-z_-]{20,64})\.([0-9]{1,15})").fullmatch
_LAST_IDS = re.compile(rb"\r\n(?i:last-event-id):[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)")
_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventId(NamedTuple):
    """One of ours: `number` counts the events of a turn from 1; 0 is before the first."""

    turn: str
    number: int


def prefix(turn: str) -> bytes:
    """Of the ids of a turn's events; the number follows."""
    return b"h1.%b." % turn.encode()


def parse(value: bytes) -> EventId | None:
    """None: it is none of ours."""
    match = _OURS(value)
    return EventId(match[1].decode(), int(match[2])) if match is not None else None


def last_event_id(request_head: bytes) -> bytes:
    """The id of the last event that the client has; b"" if it has none.

    Raises TurnProblem if there are several, or one that is too long.
    """
    found = _LAST_IDS.findall(request_head, 0, request_head.find(b"\r\n\r\n") + 2)
    if not found:
        return b""
    if len(found) > 1 or len(found[0]) > MOST_IN_ID:
        raise ambiguous()
    return bytes(found[0])


def ambiguous(turn: str = "") -> TurnProblem:
    return TurnProblem(
        409, "ambiguous_event_id", "a stream can't be resumed behind this id", turn=turn
    )


def split(events: bytes, count: int) -> bytes:
    """Whole events, without the first `count` of them."""
    start = 0
    for _ in range(count):
        match = EVENT_END.search(events, start)
        if match is None:
            return b""
        start = match.end()
    return events[start:]


def may_have(events: bytes, event_id: bytes) -> bool:
    """False if no event has this id. For 64 KiB `ids_of` may take 20 ms, and this 0.1."""
    lines = [
        b"id:%b%b%b" % (blank, event_id, end) for blank in (b"", b" ") for end in (b"\n", b"\r")
    ]
    return any(line in events for line in lines)


def ids_of(events: bytes) -> list[bytes]:
    """The id of each event, as a client takes it: its last `id` line; b"" without one."""
    found = []
    start = 0
    for match in EVENT_END.finditer(events):
        event_id = b""
        for line in _LINE_END.split(events[start : match.start()]):
            name, _, value = line.partition(b":")
            if name == b"id" and b"\0" not in value:
                event_id = value.removeprefix(b" ")
        start = match.end()
        found.append(event_id)
    return found
