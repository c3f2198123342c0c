"""Orphaned turns, whose worker died: found by the index of running turns, and continued here.

    heartbeat   one command per second renews this worker's entries and claims stale ones of others
    look        the session says what became of a claimed turn; most have ended
    adopt       the lease is taken (`Turns.take_over`, fenced) and the turn runs to its end; its
                events go to the log only

A turn with a follower is taken over by that follower (`turn_takeover`) before it is stale here.
Heartbeats are spread by jitter, each claims a few entries, and the number of adopted turns is
bounded. The store ends a turn that kills its workers after some attempts.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from agent_worker.errors import AgentError, SessionNotFound, StoreUnavailable
from agent_worker.runtime.admission import TurnRequest
from agent_worker.runtime.events import discard
from agent_worker.runtime.holders import SILENT_S
from agent_worker.sessions import NotTaken
from agent_worker.tasks import cancel_and_wait, spawn_reporting

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from agent_worker.runtime.turns import Turns
    from agent_worker.sessions import SessionStore

log = logging.getLogger(__name__)

# Seconds between two heartbeats, plus or minus a quarter; and after a failed one: the first that is
# answered again ends the interruption (`TurnIndex.steady_s`).
_BEAT_S, _RETRY_S = 1.0, 0.25
# Seconds without a heartbeat after which an entry is stale: longer than followers wait
# (`SILENT_S`), so that a turn with a client goes to that client's worker.
_STALE_S = 4.0
# Entries claimed by one heartbeat; adopted turns that run at the same time.
_MAX_CLAIMED, _MAX_ADOPTED = 8, 32


class Orphans:
    def __init__(self, store: SessionStore, turns: Turns) -> None:
        self._store = store
        self._turns = turns
        #: By session.
        self._adopted: dict[str, asyncio.Task[object]] = {}

    def __len__(self) -> int:
        return len(self._adopted)

    async def run(self) -> None:
        """Until cancelled; then the adopted turns are left to other workers."""
        clock = asyncio.get_running_loop().time
        started = clock()
        index, pause_s = self._store.index, _BEAT_S
        try:
            while True:
                await asyncio.sleep(pause_s * random.uniform(0.75, 1.25))
                # After an interruption other workers' heartbeats may be as late as this one's.
                is_sure = min(index.steady_s, clock() - started) >= _STALE_S
                room = min(_MAX_CLAIMED, _MAX_ADOPTED - len(self._adopted))
                can_claim = is_sure and room > 0 and not self._turns.is_leaving
                try:
                    claimed = await index.beat(stale_s=_STALE_S, most=room if can_claim else 0)
                except AgentError:
                    pause_s = _RETRY_S
                    continue
                pause_s = _BEAT_S
                for entry in claimed:
                    self._start(entry.partition(" ")[0], self._look(entry))
        finally:
            await cancel_and_wait(*self._adopted.values())

    def adopt(self, session_id: str, principal: str, turn: str) -> None:
        """Take the turn over if its lease permits (`Turns.take_over`), and not too many are."""
        if len(self._adopted) < _MAX_ADOPTED and not self._turns.is_leaving:
            self._start(session_id, self._go_on(session_id, principal, turn))

    def _start(self, session_id: str, work: Coroutine[None, None, object]) -> None:
        if session_id in self._adopted:
            work.close()
            return
        task = spawn_reporting(work, name="orphan")
        self._adopted[session_id] = task
        task.add_done_callback(lambda _: self._adopted.pop(session_id))

    async def _look(self, entry: str) -> None:
        session_id, _, nonce = entry.partition(" ")
        index = self._store.index
        try:
            orphan = await index.look(session_id)
        except SessionNotFound:
            index.forget(entry)
            return
        except StoreUnavailable:
            return
        match orphan.state:
            case "stopping":
                return
            case "held" if orphan.silent_s < SILENT_S:
                if orphan.nonce != nonce:
                    # Its holder has an entry of its own.
                    index.forget(entry)
                return
            case "held" | "free":
                is_settled = await self._go_on(session_id, orphan.owner, orphan.turn)
            case "over":
                is_settled = True
                if orphan.waiting:
                    self._turns.serve_inbox(session_id, orphan.owner)
        if is_settled:
            index.forget(entry)

    async def _go_on(self, session_id: str, principal: str, turn: str) -> bool:
        """Run the turn to its end. False: its entry must be looked at again."""
        asked = TurnRequest(session_id, principal, None, accepts_handover=True)
        has_taken = False
        try:
            async with self._turns.take_over(asked, turn) as running:
                if isinstance(running, NotTaken):
                    return running.held_s is None
                has_taken = True
                log.info("session %s: adopted turn %s of a dead worker", session_id, turn)
                await running.run(discard)
        except AgentError as error:
            # Followers read it from the log.
            log.info("session %s: turn %s: %s", session_id, turn, error)
        # The takeover has made an entry of its own.
        return has_taken
