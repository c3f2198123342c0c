"""Follow a session's events: what the log has behind an id, then what comes, on any worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_worker.runtime.events import RESET, unfinished
from agent_worker.runtime.reading import read_newest
from agent_worker.sessions import Event
from agent_worker.sessions.event_log import channel
from agent_worker.sessions.operations import dump

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from agent_worker.runtime.bells import Bells
    from agent_worker.sessions import SessionStore

# A bell can be missed, and a worker that died rings none: look at least this often (seconds).
_LOOK_S = 2.0
# Of a snapshot, the newest: more would be no answer to a reconnection.
_SNAPSHOT_MESSAGES = 200


class Tail:
    def __init__(self, store: SessionStore, bells: Bells) -> None:
        self._store = store
        self._bells = bells

    async def follow(
        self, session_id: str, principal: str, after: str | None
    ) -> AsyncGenerator[Event | None, None]:
        """Events behind the id `after` (None: of the turn that runs), then those to come.

        None in between says that there was nothing for a while. If some are not kept any more, a
        `reset` with the session as it stands comes instead. A turn whose worker died ends with an
        `error` that has no id. Never ends by itself; raises what the store does, SessionNotFound
        once the session is deleted.
        """
        was_running = False
        async with self._bells.listen(channel(session_id)) as bell:
            while True:
                page = await self._store.events.page(session_id, principal, after)
                if page.is_trimmed:
                    reset = await self._snapshot(session_id, principal)
                    after = reset.id
                    yield reset
                    continue
                after = page.events[-1].id if page.events else page.after
                for event in page.events:
                    yield event
                if page.events:
                    was_running = True
                    continue
                if page.status == "interrupted" and was_running:
                    yield unfinished()
                was_running = page.status == "running"
                if not await bell.wait(_LOOK_S):
                    yield None

    async def _snapshot(self, session_id: str, principal: str) -> Event:
        view = await read_newest(self._store, session_id, principal, count=_SNAPSHOT_MESSAGES)
        return Event(view.last_event, RESET, dump(view.as_json()))
