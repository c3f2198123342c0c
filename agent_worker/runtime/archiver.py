"""Moves committed messages from the outbox to the archive, in the background.

Several workers may run it at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_worker.errors import AgentError, SessionNotFound, StoreUnavailable
from agent_worker.tasks import uncancelled

if TYPE_CHECKING:
    from agent_worker.metrics import Metrics
    from agent_worker.runtime.large import LargeTexts
    from agent_worker.sessions import SessionStore
    from agent_worker.storage.base import Archive

log = logging.getLogger(__name__)

# Seconds between two reads of the outbox when it was empty, and after a failure.
_PAUSE_S = 1.0


@dataclass(eq=False)
class Archiver:
    """Delivers each message at least once; the archive ignores those that it has.

    Messages that could not be archived stay in the outbox. Messages that a failover of Redis lost
    are replaced in the archive by those that took their places.
    """

    store: SessionStore
    archive: Archive
    large: LargeTexts
    metrics: Metrics

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                took_any = await self.run_once()
            except AgentError as error:
                log.warning("archiving is postponed: %s", error)
                took_any = False
            if not took_any:
                await asyncio.sleep(_PAUSE_S)

    async def run_once(self) -> bool:
        """Archive the present content of the outbox; whether there was any."""
        sessions = await self.store.outbox.take()
        left = list(sessions)
        try:
            while left:
                await self._archive_session(left[-1])
                left.pop()
        finally:
            if left:
                # If this fails as well, the next scan of all sessions finds them.
                with contextlib.suppress(StoreUnavailable):
                    await uncancelled(self.store.outbox.announce(*left), name="announce")
        async for session_id in self.store.outbox.all():
            await self._archive_session(session_id)
        return bool(sessions)

    async def _archive_session(self, session_id: str) -> None:
        while True:
            try:
                found = await self.store.outbox.read(session_id)
            except SessionNotFound:
                return
            if found.is_deleted:
                await self.archive.delete(session_id)
                return
            if not found.messages:
                return
            messages = [await self.large.whole(message) for message in found.messages]
            await self.archive.append(
                session_id, found.owner, found.first, messages, fence=found.fence
            )
            upto = found.first + len(messages)
            await self.store.outbox.archived(session_id, upto, fence=found.fence)
            self.metrics.archived.inc(len(messages))
