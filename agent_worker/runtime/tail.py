"""Follows a session's events on any worker: those in the log after an id, then live ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_worker.backoff import Backoff
from agent_worker.errors import StoreUnavailable
from agent_worker.runtime.events import RESET, unfinished
from agent_worker.runtime.paging import read_newest
from agent_worker.sessions import Event
from agent_worker.sessions.event_log import channel, is_full
from agent_worker.sessions.operations import dump

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from agent_worker.runtime.holders import Holders
    from agent_worker.runtime.notifier import Notifier
    from agent_worker.runtime.orphans import Orphans
    from agent_worker.sessions import SessionStore

# Seconds between two reads of the log, at most and at least. Notifications may be missed, and a
# dead worker sends none.
_LOOK_S, _PAUSE_S = 2.0, 0.05
# The newest ones, of a snapshot: more would not help a client that reconnects.
_SNAPSHOT_MESSAGES = 200


@dataclass(eq=False)
class Tail:
    store: SessionStore
    notifier: Notifier
    orphans: Orphans
    holders: Holders

    async def follow(
        self, session_id: str, principal: str, after: str | None, *, until_idle: bool = False
    ) -> AsyncGenerator[Event | None, None]:
        """The events after the id `after` (None: of the running turn), then live ones.

        Yields None after each interval without events. Expired events are replaced by one `reset`
        with the current session. A turn whose worker died is continued by another worker, by this
        one if necessary; a turn that was abandoned ends with an `error` without an id. Ends only if
        `until_idle`, when no turn runs. Raises what the store raises (StoreUnavailable if Redis is
        unavailable for longer than a lease); SessionNotFound once the session is deleted.
        """
        was_unfinished = False
        backoff = Backoff(self.store.lease_s)
        async with self.notifier.listen(channel(session_id)) as wakeup:
            while True:
                try:
                    page = await self.store.events.page(session_id, principal, after)
                    reset = await self._snapshot(session_id, principal) if page.is_trimmed else None
                except StoreUnavailable as error:
                    await wakeup.wait(backoff.next_pause_s(error))  # set when Redis is back
                    yield None
                    continue
                backoff.reset()
                if reset is not None:
                    after = reset.id
                    yield reset
                    continue
                after = page.events[-1].id if page.events else page.after
                for event in page.events:
                    yield event
                was_unfinished = was_unfinished or bool(page.events)
                if is_full(page):
                    continue
                if page.state == "over" and page.status == "interrupted" and was_unfinished:
                    yield unfinished()
                was_unfinished = page.state != "over"
                if until_idle and not was_unfinished:
                    return
                pause, wait_s = _LOOK_S, 0.0
                if page.state == "held":
                    wait_s = await self.holders.wait_s(page.holder, page.silent_s)
                    pause = min(_LOOK_S, max(wait_s, _PAUSE_S))
                if page.state in {"free", "held"} and not wait_s:
                    self.orphans.adopt(session_id, principal, page.turn)
                    pause = _LOOK_S
                if not await wakeup.wait(pause):
                    yield None

    async def _snapshot(self, session_id: str, principal: str) -> Event:
        view = await read_newest(self.store, session_id, principal, count=_SNAPSHOT_MESSAGES)
        return Event(view.last_event, RESET, dump(view.as_json()))
