"""The outbox of the archive on Redis: committed messages above a watermark in the session itself.

The history is its own outbox: a commit puts a message into it, and only the watermark is kept in
addition. A set has the sessions to read soon. No script can write both (the set is in another slot
of a Cluster), so the set is a hint, which a worker may not live to give. No session is missed
because all of them are scanned more often than the shortest-lived of them, a tombstone, expires.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_worker.sessions.base import Outbox
from agent_worker.sessions.keys import session_id_of, session_keys
from agent_worker.sessions.operations import load
from agent_worker.sessions.records import Unarchived

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent_worker.sessions.operations import Operations

_DIRTY = "hermes:outbox"
_SCANNED = "hermes:outbox:scanned"
#: Seconds; much less than the hour that a tombstone lives.
SCAN_EVERY_S = 1200
_BATCH = 200


class RedisOutbox(Outbox):
    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def announce(self, *session_ids: str) -> None:
        async with self._operations.store_errors("outbox"):
            await self._operations.client.raw.sadd(_DIRTY, *session_ids)

    async def take(self, most: int = 100) -> list[str]:
        async with self._operations.store_errors("outbox"):
            return list(await self._operations.client.raw.spop(_DIRTY, most) or [])

    async def all(self) -> AsyncIterator[str]:
        raw = self._operations.client.raw
        async with self._operations.store_errors("outbox"):
            is_due = await raw.set(_SCANNED, 1, nx=True, ex=SCAN_EVERY_S)
        if not is_due:
            return
        keys = raw.scan_iter(match=session_keys("*")[0], count=500)
        while True:
            async with self._operations.store_errors("outbox"):
                key = await anext(keys, None)
            if key is None:
                return
            yield session_id_of(key)

    async def read(self, session_id: str) -> Unarchived:
        reply = await self._operations.run("unarchived", session_id, "", _BATCH)
        owner, fence, first, is_deleted, *texts = reply[1:]
        messages = load(texts)
        return Unarchived(session_id, owner, int(first), messages, is_deleted == "1", int(fence))

    async def archived(self, session_id: str, upto: int, *, fence: int) -> int:
        return int((await self._operations.run("archived", session_id, "", upto, fence))[1])
