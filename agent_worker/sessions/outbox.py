"""What the archive has not got yet: committed messages above a watermark in the session itself.

The history is its own outbox: a message is in it with the very commit that made it, and the
watermark is all that there is to keep. A set says which sessions to look at soon. It can't be
written in the same script (it is in another slot of a Cluster), so it is a hint: a worker may die
before it gives it. That no session is missed is because all of them are looked through now and
then, more often than the shortest-lived of them, a tombstone, expires.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_worker.sessions.keys import session_id_of, session_keys
from agent_worker.sessions.operations import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent_worker.sessions.operations import Operations
    from agent_worker.sessions.records import Message

_DIRTY = "hermes:outbox"
_SCANNED = "hermes:outbox:scanned"
#: Seconds; well below the hour that a tombstone lives.
SCAN_EVERY_S = 1200
_BATCH = 200


@dataclass(frozen=True, slots=True)
class Unarchived:
    """Messages of a session, the first of which has the index `first`; deleted: it is gone."""

    session_id: str
    owner: str
    first: int
    messages: list[Message]
    is_deleted: bool = False
    #: The session's, under which they were read.
    fence: int = 0


class Outbox:
    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def announce(self, *session_ids: str) -> None:
        """There is something new in these sessions."""
        async with self._operations.reaching("outbox"):
            await self._operations.client.raw.sadd(_DIRTY, *session_ids)

    async def take(self, most: int = 100) -> list[str]:
        """Sessions to look at, taken out."""
        async with self._operations.reaching("outbox"):
            return list(await self._operations.client.raw.spop(_DIRTY, most) or [])

    async def all(self) -> AsyncIterator[str]:
        """Every session that there is; nothing if somebody has looked within `SCAN_EVERY_S`."""
        raw = self._operations.client.raw
        async with self._operations.reaching("outbox"):
            is_due = await raw.set(_SCANNED, 1, nx=True, ex=SCAN_EVERY_S)
        if not is_due:
            return
        keys = raw.scan_iter(match=session_keys("*")[0], count=500)
        while True:
            async with self._operations.reaching("outbox"):
                key = await anext(keys, None)
            if key is None:
                return
            yield session_id_of(key)

    async def read(self, session_id: str) -> Unarchived:
        """The next messages for the archive, in order. Raises SessionNotFound once it expired."""
        reply = await self._operations.run("unarchived", session_id, "", _BATCH)
        owner, fence, first, is_deleted, *texts = reply[1:]
        messages = load(texts)
        return Unarchived(session_id, owner, int(first), messages, is_deleted == "1", int(fence))

    async def archived(self, session_id: str, upto: int, *, fence: int) -> int:
        """The messages before index `upto` are in the archive; returns how many are not.

        Those under the watermark stay it: `fence` is that under which the others were read, and if
        it has grown since, they may be other ones after a failover, and are to be read again.
        """
        return int((await self._operations.run("archived", session_id, "", upto, fence))[1])
