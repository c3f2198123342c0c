"""The event log of the store in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_worker.errors import EventsGone
from agent_worker.sessions import EventPage, TurnPage
from agent_worker.sessions.event_log import event_order
from tests.agent_worker.sessions.memory.session import worker_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_worker.sessions import Event, Lease
    from tests.agent_worker.sessions.memory.session import Session
    from tests.agent_worker.sessions.memory.store import MemoryStore

PAGE = 500
ENDS = ("done", "error")


class MemoryEventLog:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def append(self, lease: Lease, events: Sequence[Event]) -> bool:
        session = self._store.held(lease)
        self._store._log(session, events)
        session.lease_until = self._store.now() + session.lease_ms
        session.has_failed |= bool(events and events[-1].name == "error")
        return session.is_asked_to_stop

    def _kept(self, session: Session) -> list[Event]:
        is_expired = session.events_expire is not None and (
            self._store.now() >= session.events_expire
        )
        return [] if is_expired else session.events

    async def page(self, session_id: str, principal: str, after: str | None) -> EventPage:
        session, now = self._store.owned(session_id, principal), self._store.now()
        status, start = self._store.status_of(session), f"{session.turn}-0"
        kept = self._kept(session)
        after = after or (start if status == "running" else session.last_event)
        known = after.removesuffix("-0") + "-1" if after.endswith("-0") else after
        if session.turn and after in (start, session.turn_before):
            known = session.turn_first
        elif after == "0-0" and session.first_event:
            known = session.first_event
        is_behind = event_order(after) < event_order(session.last_event)
        if is_behind and known not in {event.id for event in kept}:
            return EventPage("idle", session.last_event, after, [], is_trimmed=True)
        state, silence = session.last_turn(now)
        return EventPage(
            status,
            session.last_event,
            after,
            behind(kept, after)[:PAGE],
            turn=str(session.turn),
            state=state,  # type: ignore[arg-type]
            silent_s=silence / 1000,
            holder=worker_of(session.holder(now)),
        )

    async def of_turn(
        self, session_id: str, principal: str, turn: str, after: str | None
    ) -> TurnPage:
        session = self._store.owned(session_id, principal)
        fence, kept = int(turn), self._kept(session)
        if fence not in session.turns:
            raise EventsGone
        start = f"{turn}-0"
        after = after if after and event_order(after) >= event_order(start) else start
        if not self._has_all(session, kept, after, fence):
            raise EventsGone
        place = session.turns.index(fence)
        following = [*session.turns, None][place + 1]
        events = [
            event
            for event in behind(kept, start)
            if following is None or event_order(event.id) < (following, 0)
        ]
        state, silence = session.state_of(fence, self._store.now())
        ended_by = ""
        if state == "over":
            ended_by = events[-1].id if events and events[-1].name in ENDS else ""
            is_done = fence == session.turn and session.status == "idle"
            state = "ended" if ended_by or is_done else "lost"
        return TurnPage(
            "held" if state == "stopping" else state,  # type: ignore[arg-type]
            silence / 1000,
            worker_of(session.holder(self._store.now())),
            after,
            ended_by,
            behind(events, after)[:PAGE],
        )

    @staticmethod
    def _has_all(session: Session, kept: list[Event], after: str, turn: int) -> bool:
        """Whether no event after this one has been trimmed."""
        if event_order(after) >= event_order(session.last_event):
            return True
        if not kept or event_order(after) >= event_order(kept[0].id):
            return bool(kept)
        is_first = kept[0].id == session.first_event
        is_first |= turn == session.turn and kept[0].id == session.turn_first
        return after == f"{turn}-0" and is_first


def behind(events: Sequence[Event], after: str) -> list[Event]:
    return [event for event in events if event_order(event.id) > event_order(after)]
