"""What a client reads of event streams, over all of its connections, judged against the log."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

from bench.chaos_sessions.audit import event_order

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from bench.chaos_sessions.tally import Tally

#: What tells that a connection is gone, or never was.
LOST = (aiohttp.ClientError, TimeoutError, OSError)
# As many events of a session are kept at least.
_KEPT_EVENTS = 2000

#: An event as the log has it: id, name, data.
Logged = tuple[str, str, str]


@dataclass(frozen=True)
class Event:
    """`id` is empty for what is not in the log."""

    id: str
    name: str
    text: str

    @property
    def data(self) -> Any:
        return json.loads(self.text)


async def read_events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """Whole events only: what was cut off in the middle was not received."""
    fields: dict[str, str] = {}
    async for raw in response.content:
        line = raw.decode()
        if not line.endswith("\n"):
            return
        line = line.rstrip("\n")
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield Event(fields.get("id", ""), fields["event"], fields.get("data", ""))
            fields = {}


@dataclass
class Transcript:
    """The deltas of one answer: those of a turn's own stream, and of those that followed it."""

    parts: list[tuple[str, str]] = field(default_factory=list)

    def add(self, event: Event) -> None:
        if event.name == "message.delta":
            self.parts.append((event.id, event.data["content"]))
        elif event.name == "rewind":
            void = event_order(event.data["id"])
            self.parts = [part for part in self.parts if event_order(part[0]) <= void]

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.parts)


@dataclass
class Followed:
    """All that one follower of a session received; a `reset` begins a new segment."""

    segments: list[list[Event]] = field(default_factory=lambda: [[]])
    #: When an event came, by its id (time.monotonic()).
    came_at: dict[str, float] = field(default_factory=dict)

    @property
    def last(self) -> Event | None:
        return next((segment[-1] for segment in reversed(self.segments) if segment), None)

    @property
    def last_id(self) -> str | None:
        return self.last.id if self.last is not None else None

    def add(self, event: Event, now: float) -> None:
        if event.name == "reset":
            self.segments.append([event])
        elif event.id:
            self.segments[-1].append(event)
            self.came_at[event.id] = now


def check_ids(tally: Tally, session_id: str, events: Sequence[Event]) -> None:
    """The ids of one stream of a turn increase."""
    ids = [event.id for event in events if event.id]
    for before, after in itertools.pairwise(ids):
        what = f"a stream's ids: {before}, then {after}"
        tally.check("6", event_order(before) < event_order(after), what, session_id)


def check_followed(
    tally: Tally,
    session_id: str,
    followed: Followed,
    log: Sequence[Logged],
    failovers: Sequence[tuple[float, float]] = (),
) -> None:
    """Each segment is a piece of the log, and there is more than one only if events are missing."""
    is_due = bool(failovers) or len(log) > _KEPT_EVENTS or len(followed.segments) == 1
    tally.check("6", is_due, "a reset, though all events are kept", session_id)
    check_piece(tally, "6", session_id, followed, log, failovers)


def check_piece(
    tally: Tally,
    invariant: str,
    session_id: str,
    followed: Followed,
    log: Sequence[Logged],
    failovers: Sequence[tuple[float, float]],
) -> None:
    """Each segment is a piece of the log without a gap or a repetition.

    Events that arrived while a failover could lose them (`failovers`) may be missing in the log. A
    client that had such an event continues after it, and so lacks events to which the new master
    gave a smaller id.
    """
    kept = {each[0] for each in log}
    for segment in filter(None, followed.segments):
        check_ids(tally, session_id, segment)
        # A reset stands for all up to its own id.
        is_reset = segment[0].name == "reset"
        seen = segment[is_reset:]
        lost = [
            event.id
            for event in seen
            if event.id not in kept and is_within(failovers, followed.came_at[event.id])
        ]
        tally.figures["followed events lost by failovers"] += len(lost)
        first, last = event_order(segment[0].id), event_order(segment[-1].id)
        hidden = max(map(event_order, lost), default=(0.0, 0))
        got = [(event.id, event.name, event.text) for event in seen if event.id not in lost]
        ids = {each[0] for each in got}
        wanted = [
            each
            for each in log
            if first <= (order := event_order(each[0])) <= last
            and not (is_reset and order == first)
            and not (order < hidden and each[0] not in ids)
        ]
        tally.check(invariant, got == wanted, _difference(got, wanted), session_id)


def is_within(spans: Sequence[tuple[float, float]], at: float) -> bool:
    return any(begin <= at <= end for begin, end in spans)


def _difference(got: Sequence[tuple[str, ...]], wanted: Sequence[tuple[str, ...]]) -> str:
    missing = [each[:2] for each in wanted if each not in got][:5]
    foreign = [each for each in got if each not in wanted][:3]
    return f"a follower lacks {missing}, and has {foreign}, of {len(wanted)} events"
