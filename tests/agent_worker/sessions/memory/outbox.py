"""The outbox of the store in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_worker.errors import SessionNotFound
from agent_worker.sessions import Unarchived
from agent_worker.sessions.operations import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.agent_worker.sessions.memory.session import Session
    from tests.agent_worker.sessions.memory.store import MemoryStore

BATCH = 200
SCAN_EVERY_MS = 1200 * 1000


class MemoryOutbox:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._backend = store.backend

    async def announce(self, *session_ids: str) -> None:
        self._backend.hints.update(session_ids)

    async def take(self, most: int = 100) -> list[str]:
        taken = list(self._backend.hints)[:most]
        self._backend.hints.difference_update(taken)
        return taken

    async def all(self) -> AsyncIterator[str]:
        now = self._backend.now_ms()
        if now >= self._backend.scanned_until:
            self._backend.scanned_until = now + SCAN_EVERY_MS
            for space, sid in list(self._backend.sessions):
                if space == self._store.options.space and self._backend.find(sid, space):
                    yield sid

    async def read(self, session_id: str) -> Unarchived:
        session = self._found(session_id)
        if session.deleted:
            return Unarchived(session_id, session.owner, 0, [], is_deleted=True)
        first = session.archived
        messages = load(session.messages[first : first + BATCH])
        return Unarchived(session_id, session.owner, first, messages, fence=session.fence)

    async def archived(self, session_id: str, upto: int, *, fence: int) -> int:
        session = self._found(session_id)
        if session.deleted:
            raise SessionNotFound
        if fence == session.fence:
            session.archived = max(session.archived, min(upto, len(session.messages)))
        return len(session.messages) - session.archived

    def _found(self, session_id: str) -> Session:
        if (session := self._backend.find(session_id, self._store.options.space)) is None:
            raise SessionNotFound
        return session
