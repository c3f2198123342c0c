"""The event log on Redis: a stream per session whose ids are `<fence>-<seq>`.

An event is logged before it is sent, so a client can resume after any id it has, on any worker.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from agent_worker.errors import EventsGone
from agent_worker.sessions.base import EventLog
from agent_worker.sessions.records import Event, EventPage, TurnPage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent_worker.sessions.operations import Operations
    from agent_worker.sessions.records import Lease, Status

_EVENT_ID = re.compile(r"[0-9]{1,15}-[0-9]{1,15}")
_PAGE = 500


def is_event_id(text: str) -> bool:
    """Whether `text` has the form of an event id."""
    return _EVENT_ID.fullmatch(text) is not None


def event_order(event_id: str) -> tuple[int, int]:
    """The sort key of event ids within a session."""
    fence, _, seq = event_id.partition("-")
    return int(fence), int(seq)


def channel(session_id: str) -> str:
    """The channel that is notified when the session's log has grown or its turn has ended."""
    return f"hermes:events:{session_id}"


def flattened(events: Sequence[Event]) -> Iterable[str | int]:
    """Events as script arguments: their count, then id, name and data of each."""
    yield len(events)
    for event in events:
        yield from (event.id, event.name, event.data)


class RedisEventLog(EventLog):
    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def append(self, lease: Lease, events: Sequence[Event]) -> bool:
        reply = await self._operations.run_held("append", lease, *flattened(events))
        return bool(reply[1] == "1")

    async def page(self, session_id: str, principal: str, after: str | None) -> EventPage:
        reply = await self._operations.run("events", session_id, principal, after or "", _PAGE)
        if reply[0] == "TRIMMED":
            return EventPage("idle", reply[1], after or "", [], is_trimmed=True)
        _, status, last, behind, turn, state, silent_ms, holder, *flat = reply
        return EventPage(
            cast("Status", status),
            last,
            behind,
            _events(flat),
            turn=turn,
            state=cast("Any", state),
            silent_s=int(silent_ms) / 1000,
            holder=holder,
        )

    async def of_turn(
        self, session_id: str, principal: str, turn: str, after: str | None
    ) -> TurnPage:
        reply = await self._operations.run(
            "turn_events", session_id, principal, turn, after or "", _PAGE
        )
        if reply[0] == "TRIMMED":
            raise EventsGone
        _, state, silent_ms, holder, behind, ended_by, *flat = reply
        silent_s = int(silent_ms) / 1000
        return TurnPage(cast("Any", state), silent_s, holder, behind, ended_by, _events(flat))


def is_full(page: EventPage | TurnPage) -> bool:
    """Whether more events may follow those of `page` in the log; otherwise it had all of them."""
    return len(page.events) == _PAGE


def _events(flat: Sequence[str]) -> list[Event]:
    return [Event(*flat[i : i + 3]) for i in range(0, len(flat), 3)]
