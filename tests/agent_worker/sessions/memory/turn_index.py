"""The index of running turns in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_worker.errors import SessionNotFound
from agent_worker.sessions.operations import to_ms
from agent_worker.sessions.records import Orphan
from agent_worker.sessions.turn_index import TurnIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.agent_worker.sessions.memory.backend import MemoryBackend


class MemoryTurnIndex(TurnIndex):
    """The heartbeats of one worker; its view of Redis is always steady."""

    def __init__(self, backend: MemoryBackend) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._backend = backend

    async def look(self, session_id: str) -> Orphan:
        session, now = self._backend.find(session_id), self._backend.now_ms()
        if session is None or session.deleted:
            raise SessionNotFound
        state, silence = session.last_turn(now)
        queued = len(session.inbox)
        return Orphan(
            session.owner, str(session.turn), state, silence / 1000, session.turn_nonce, queued
        )

    async def _run(
        self, stale_s: float, most: int, alive: Sequence[str], over: Sequence[str] = ()
    ) -> list[str]:
        index, now = self._backend.index, self._backend.now_ms()
        index.update(dict.fromkeys(alive, now))
        for entry in over:
            index.pop(entry, None)
        oldest_first = sorted(index, key=lambda entry: index[entry])
        claimed = [entry for entry in oldest_first if index[entry] <= now - to_ms(stale_s)][:most]
        index.update(dict.fromkeys(claimed, now))
        return claimed
