"""Feeds the archive from the outbox, in the background; it may run in several workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from agent_worker.errors import AgentError, SessionNotFound, StoreUnavailable
from agent_worker.tasks import uncancelled

if TYPE_CHECKING:
    from agent_worker.metrics import Metrics
    from agent_worker.runtime.large import LargeTexts
    from agent_worker.sessions import SessionStore
    from agent_worker.storage.base import Archive

log = logging.getLogger(__name__)

# How often the outbox is looked at when it was empty, and after a failure (seconds).
_PAUSE_S = 1.0


class Archiver:
    """At least once for each message; the archive leaves alone what it knows.

    What fails stays in the outbox. What a failover took from Redis gives way in the archive to what
    came in its place.
    """

    def __init__(
        self, store: SessionStore, archive: Archive, large: LargeTexts, metrics: Metrics
    ) -> None:
        self._store = store
        self._archive = archive
        self._large = large
        self._metrics = metrics

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                took_any = await self.run_once()
            except AgentError as error:
                log.warning("the archive has to wait: %s", error)
                took_any = False
            if not took_any:
                await asyncio.sleep(_PAUSE_S)

    async def run_once(self) -> bool:
        """Archive what is in the outbox now; whether there was anything."""
        sessions = await self._store.outbox.take()
        left = list(sessions)
        try:
            while left:
                await self._archive_session(left[-1])
                left.pop()
        finally:
            if left:
                # If this fails as well, the next look through all sessions finds them.
                with contextlib.suppress(StoreUnavailable):
                    await uncancelled(self._store.outbox.announce(*left), name="announce")
        async for session_id in self._store.outbox.all():
            await self._archive_session(session_id)
        return bool(sessions)

    async def _archive_session(self, session_id: str) -> None:
        while True:
            try:
                found = await self._store.outbox.read(session_id)
            except SessionNotFound:
                return
            if found.is_deleted:
                await self._archive.delete(session_id)
                return
            if not found.messages:
                return
            messages = [await self._large.whole(message) for message in found.messages]
            await self._archive.append(
                session_id, found.owner, found.first, messages, fence=found.fence
            )
            upto = found.first + len(messages)
            await self._store.outbox.archived(session_id, upto, fence=found.fence)
            self._metrics.archived.inc(len(messages))
