"""The index of running turns: which exist, and when their workers last sent a heartbeat.

A lease expires silently, and a script of one session cannot write to a key of all sessions (it is
in another slot of a Cluster). So each attempt at a turn is entered in one sorted set before it
begins, and each worker renews all of its entries with one command per heartbeat. An entry is
removed when its turn has ended; an abandoned one is found by its old score. The index only
says where to look: what is true of a turn is in the session itself (`orphan`), and the fence
decides which worker may continue it.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, cast

from agent_worker.sessions.operations import to_ms
from agent_worker.sessions.records import Orphan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_worker.sessions.operations import Operations

INDEX = "hermes:turns"
# Seconds. A heartbeat that takes longer than the first, or comes later than the second after the
# one before, is an interruption: the heartbeats of other workers may have been lost as well. Below
# the first, a renewal each second is never older than the silence that costs a holder its turn.
_SLOW_S, _LATE_S = 1.0, 2.5


class TurnIndex:
    """One worker's entries, and its view of all others'. An entry is `<session id> <nonce>`."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._alive: set[str] = set()
        self._over: set[str] = set()
        # Times of the loop's clock.
        self._steady_since = -math.inf
        self._asked_at = self._answered_at = math.inf

    @property
    def steady_s(self) -> float:
        """Seconds for which Redis has answered this worker's heartbeats without an interruption.

        A holder that was silent for as long is at fault itself; a shorter silence may be due to the
        interruption. Infinite until a heartbeat has failed.
        """
        now = asyncio.get_running_loop().time()
        if now - self._asked_at > _SLOW_S or now - self._answered_at > _LATE_S:
            return 0.0
        return max(now - self._steady_since, 0.0)

    async def enter(self, session_id: str, nonce: str) -> None:
        """An attempt at a turn is about to begin. Raises StoreUnavailable."""
        entry = f"{session_id} {nonce}"
        await self._run(0.0, 0, [entry])
        self._alive.add(entry)

    def leave(self, session_id: str, nonce: str, *, is_over: bool) -> None:
        """The attempt has ended. Unless `is_over`, another worker is to look at it."""
        entry = f"{session_id} {nonce}"
        self._alive.discard(entry)
        if is_over:
            self._over.add(entry)

    def forget(self, entry: str) -> None:
        """No worker has to look at it any more; the next heartbeat removes it."""
        self._over.add(entry)

    async def beat(self, *, stale_s: float, most: int) -> list[str]:
        """Send this worker's heartbeat. Returns claimed entries, `most` at most.

        They have had no heartbeat for `stale_s`, and no other worker claims them for as long.
        Raises StoreUnavailable.
        """
        clock = asyncio.get_running_loop().time
        over = list(self._over)
        self._asked_at = clock()
        is_answered = False
        try:
            entries = await self._run(stale_s, most, list(self._alive), over)
            is_answered = True
        finally:
            now = clock()
            late = now - self._answered_at > _LATE_S
            if not is_answered:
                self._steady_since = math.inf
            elif late or now - self._asked_at > _SLOW_S or self._steady_since == math.inf:
                self._steady_since = now
            self._asked_at, self._answered_at = math.inf, now
        self._over.difference_update(over)
        return entries

    async def look(self, session_id: str) -> Orphan:
        """The session's last turn. Raises SessionNotFound, StoreUnavailable."""
        reply = await self._operations.run("orphan", session_id, "")
        owner, turn, state, silent_ms, nonce, waiting = reply[1:]
        return Orphan(
            owner, turn, cast("Any", state), int(silent_ms) / 1000, nonce, waiting=int(waiting)
        )

    async def _run(
        self, stale_s: float, most: int, alive: Sequence[str], over: Sequence[str] = ()
    ) -> list[str]:
        reply = await self._operations.run_shared(
            "beat", INDEX, to_ms(stale_s), most, len(alive), *alive, *over
        )
        return list(reply[1:])
