"""Follow a session's events: what the log has behind an id, then what comes, on any worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agent_worker.errors import StoreUnavailable
from agent_worker.runtime.events import RESET, unfinished
from agent_worker.runtime.outage import Outage
from agent_worker.runtime.reading import read_newest
from agent_worker.sessions import Event
from agent_worker.sessions.event_log import channel
from agent_worker.sessions.operations import dump

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from agent_worker.runtime.bells import Bells
    from agent_worker.runtime.holders import Holders
    from agent_worker.runtime.orphans import Orphans
    from agent_worker.sessions import SessionStore

# A bell can be missed, and a worker that died rings none: look at least this often, and not more
# often than that (seconds).
_LOOK_S, _PAUSE_S = 2.0, 0.05
# Of a snapshot, the newest: more would be no answer to a reconnection.
_SNAPSHOT_MESSAGES = 200


class Tail:
    def __init__(
        self, store: SessionStore, bells: Bells, orphans: Orphans, holders: Holders
    ) -> None:
        self._store = store
        self._holders = holders
        self._bells = bells
        self._orphans = orphans

    async def follow(
        self, session_id: str, principal: str, after: str | None, *, until_idle: bool = False
    ) -> AsyncGenerator[Event | None, None]:
        """Events behind the id `after` (None: of the turn that runs), then those to come.

        None in between says that there was nothing for a while. If some are not kept any more, a
        `reset` with the session as it stands comes instead. A turn whose worker died goes on at
        another worker, this one if need be; one that was given up half-way ends with an `error`
        that has no id. Ends by itself only if `until_idle`, when no turn runs. Raises what the
        store does (StoreUnavailable if Redis is away for longer than a lease), SessionNotFound once
        the session is deleted.
        """
        was_unfinished = False
        outage = Outage(self._store.lease_s)
        async with self._bells.listen(channel(session_id)) as bell:
            while True:
                try:
                    page = await self._store.events.page(session_id, principal, after)
                    reset = await self._snapshot(session_id, principal) if page.is_trimmed else None
                except StoreUnavailable as error:
                    await asyncio.sleep(outage.pause_s(error))
                    yield None
                    continue
                outage.over()
                if reset is not None:
                    after = reset.id
                    yield reset
                    continue
                after = page.events[-1].id if page.events else page.after
                for event in page.events:
                    yield event
                if page.events:
                    was_unfinished = True
                    continue
                if page.state == "over" and page.status == "interrupted" and was_unfinished:
                    yield unfinished()
                was_unfinished = page.state != "over"
                if until_idle and not was_unfinished:
                    return
                pause, wait_s = _LOOK_S, 0.0
                if page.state == "held":
                    wait_s = await self._holders.wait_s(page.holder, page.silent_s)
                    pause = min(_LOOK_S, max(wait_s, _PAUSE_S))
                if page.state in {"free", "held"} and not wait_s:
                    self._orphans.adopt(session_id, principal, page.turn)
                    pause = _LOOK_S
                if not await bell.wait(pause):
                    yield None

    async def _snapshot(self, session_id: str, principal: str) -> Event:
        view = await read_newest(self._store, session_id, principal, count=_SNAPSHOT_MESSAGES)
        return Event(view.last_event, RESET, dump(view.as_json()))
