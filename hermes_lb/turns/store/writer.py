"""Writes the journals of this process: what arrives in some milliseconds leaves in one write.

A journal gets its lane when it is first written, and another one when it has lost it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import hiredis

from hermes_lb.turns.ports import StoreAway
from hermes_lb.turns.store.append_command import APPEND
from hermes_lb.turns.store.lane import Lane
from hermes_lb.turns.store.link import Link, LinkLost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb.tasks import Tasks
    from hermes_lb.turns.store.client import StoreClient
    from hermes_lb.turns.store.journal import StoredJournal
    from hermes_lb.turns.store.node import Node

logger = logging.getLogger("hermes_lb.turns")

# Seconds that a batch waits for more. With a loop iteration it is less than 10 ms.
_DELAY: Final = 0.008
# Seconds between two looks at the lanes. One that has answered nothing in two of them is lost.
_LOOK: Final = 1.0
# Seconds between two attempts to get a lane, doubled up to the second until a batch is
# acknowledged: a server that is full or read-only accepts connections all the same.
_PAUSE: Final = (0.02, 0.5)
# Seconds after which a journal's TTL is renewed, and journals that are looked after at once.
_RENEWED: Final = 120.0
_AT_ONCE: Final = 500
# A slot is being moved to another server: the client follows the redirections.
_MOVING: Final = frozenset(("MOVED", "ASK", "TRYAGAIN"))


class Writer:
    """Of all journals of this process. `start` it, then `close` it."""

    def __init__(self, client: StoreClient, tasks: Tasks) -> None:
        self.client = client
        self.publish = "SPUBLISH" if client.topology.is_sharded else "PUBLISH"
        self.now = asyncio.get_running_loop().time
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[Node, Lane] = {}
        self._open: set[StoredJournal] = set()
        self._dirty: list[StoredJournal] = []
        self._timer: asyncio.TimerHandle | None = None
        # Without a lane; those in a slot that moves.
        self._homeless: dict[StoredJournal, None] = {}
        self._moving: set[StoredJournal] = set()
        self._placing: asyncio.Task[None] | None = None
        self._pause = 0.0  # before the next attempt to get a lane
        self._watching: asyncio.Task[None] | None = None
        self._looked_at = self.now()
        self._is_closed = False

    def add(self, journal: StoredJournal) -> None:
        """It has something to send."""
        if journal.is_dirty or self._is_closed:
            return
        journal.is_dirty = True
        self._dirty.append(journal)
        if self._timer is None:
            self._timer = self._loop.call_later(_DELAY, self._flush)

    def forget(self, journal: StoredJournal) -> None:
        """It has ended."""
        self._open.discard(journal)
        self._homeless.pop(journal, None)

    def close(self) -> None:
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for lane in self._lanes.values():
            lane.abort()

    def is_back(self) -> None:
        """A lane's first batch is acknowledged."""
        self._pause = 0.0
        self.client.came_back()

    def refused(self, lane: Lane, journals: Sequence[StoredJournal], why: str) -> None:
        """The lane's server has answered with an error."""
        if why.partition(" ")[0] in _MOVING:
            self._moving.update(journals)
        else:
            self._lose(lane, why)

    def _flush(self) -> None:
        self._timer = None
        dirty, self._dirty = self._dirty, []
        for journal in dirty:
            journal.is_dirty = False
            lane = journal.lane
            if lane is not None and lane.link.is_open:
                lane.put(journal)
            elif not journal.is_refused:
                self._place(journal)
        for lane in self._lanes.values():
            lane.flush()

    def _lose(self, lane: Lane, why: str) -> None:
        if self._lanes.get(lane.node) is lane:
            del self._lanes[lane.node]
            self._lengthen_pause()
            self.client.went_away(f"{lane.node.name}: {why}")
            self.client.topology.distrust(lane.node)
        lane.abort()

    # Getting a lane.

    def _place(self, journal: StoredJournal) -> None:
        journal.lane = None
        if journal not in self._open:
            self._open.add(journal)
            journal.renewed_at = self._looked_at
        if self._watching is None or self._watching.done():
            self._watching = self._tasks.spawn(self._watch(), name="lanes of the journals")
        if journal in self._moving:
            self._moving.discard(journal)
            self._tasks.spawn(self._send_by_client(journal), name="journal in a slot that moves")
            return
        self._homeless[journal] = None
        if self._placing is None or self._placing.done():
            self._placing = self._tasks.spawn(self._place_all(), name="lanes for journals")

    def _lengthen_pause(self) -> None:
        first, longest = _PAUSE
        self._pause = min(max(first, 2 * self._pause), longest)

    async def _place_all(self) -> None:
        while self._homeless:
            if self._pause:
                await asyncio.sleep(self._pause)
            try:
                async with asyncio.timeout(self.client.patience):
                    await self._place_some()
            except OSError as error:  # TimeoutError is one
                self.client.went_away(str(error) or "it does not answer in time")
                self._lengthen_pause()

    async def _place_some(self) -> None:
        try:
            for journal in list(self._homeless):
                lane = await self._lane(journal.keys[0])
                if journal in self._homeless:
                    del self._homeless[journal]
                    journal.lane = lane
                    lane.put(journal)
        finally:
            for lane in self._lanes.values():
                lane.flush()

    async def _lane(self, key: str) -> Lane:
        """The one to the server that holds `key`. Raises OSError."""
        topology = self.client.topology
        node = await topology.node(key)
        lane = self._lanes.get(node)
        if lane is not None:
            if lane.link.is_open:
                return lane
            lane.abort()
        try:
            link = await node.connect(Link)
            [reply] = await link.ask([("SCRIPT", "LOAD", APPEND.text)])
            if isinstance(reply, hiredis.ReplyError):
                link.abort()
                raise LinkLost(str(reply))
        except BaseException:
            topology.distrust(node)
            raise
        lane = Lane(self, node, link, is_shared=not topology.is_sharded)
        self._lanes[node] = lane
        return lane

    async def _send_by_client(self, journal: StoredJournal) -> None:
        """Send what it has by the client, and give it a lane after that."""
        for batch in journal.unsent():
            try:
                reply = await self.client.run(APPEND, journal.keys, journal.arguments(batch))
            except StoreAway:
                reply = None
            if isinstance(reply, list) and len(reply) == 1:
                journal.acknowledged(reply[0], self.now())
            else:
                journal.failed()

    # Looking after them.

    async def _watch(self) -> None:
        while True:
            seen = {lane: lane.replies for lane in self._lanes.values() if lane.is_waiting}
            await asyncio.sleep(_LOOK)
            for lane, replies in seen.items():
                if lane.is_waiting and lane.link.is_open and lane.replies == replies:
                    self._lose(lane, "it does not answer in time")
            await self._look_after()

    async def _look_after(self) -> None:
        self._looked_at = self.now()
        journals = list(self._open)
        for first in range(0, len(journals), _AT_ONCE):
            now = self.now()
            for journal in journals[first : first + _AT_ONCE]:
                lane = journal.lane
                if lane is None or journal not in self._open:
                    continue
                if not lane.link.is_open:
                    self._place(journal)  # it may have nothing to send for long, and be renewed
                    continue
                if not lane.is_waiting:  # else a failover may be in progress
                    journal.tidy(now)
                if now - journal.renewed_at >= _RENEWED:
                    journal.renewed_at = now
                    lane.renew(journal)
            await asyncio.sleep(0)
