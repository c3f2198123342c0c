"""The other processes, as a worker's pools see them: through the block of shared memory.

Leases. Each worker writes its own into its part. What the others hold is added to
`Server.in_flight`, so that every strategy and every limit counts all of them: at the first pick of
a turn of the loop, and where there is a limit anew when a place is taken or given back. Everybody
notes first and looks then (Dekker), so two who are after one place can't both miss the other.

Places. A worker that gives back a place on a full server looks who has waited longest for it, here
or elsewhere, and rings that one's bell: an eventfd. Who was rung for more places than it needs
passes the bell on. So the queue is first come, first served over all processes, up to the time that
a bell takes. Who waits also looks by itself, since a bell may ring in vain, and a worker that dies
rings none.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from hermes_lb.backends import Pool, Server, Waiter
    from hermes_lb.workers.block import Block, Part

# Seconds between two looks, for each row that there is: with 1,000 servers one a millisecond.
_LOOK_PER_ROW = 1e-6
# Seconds after which who waits looks by itself.
_LOOK_WAITING = 0.5
_CELL = 8


def row_of(backend: str, server: Server) -> str:
    """The name under which a server has a row; at another address it is another server."""
    return f"{backend}/{server.name} {server.config.address}"


class Peers:
    """What worker `number` has to do with the others (`pool.Peers`).

    `bells` has an eventfd for each worker.
    """

    def __init__(
        self,
        block: Block,
        number: int,
        bells: list[int],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._mine = block.parts[number]
        self._others: list[tuple[int, Part]] = [
            (other, part) for other, part in enumerate(block.parts) if other != number
        ]
        self._bell = bells[number]
        self._bells = bells
        self._loop = loop
        self._clock: Callable[[], float] = loop.time
        self._rows: dict[Server, int] = {}
        self._pool_rows: dict[Pool, int] = {}
        self._used: list[tuple[Pool, Server] | None] = []  # by row
        self._seen: list[bytes] = [b""] * len(self._others)  # their loads, as we know them
        self._elsewhere: list[int] = []  # by row: leases of the others, in `in_flight` already
        self._is_ahead = False  # `_elsewhere` knows of something newer than `_seen`
        # Who waits here: since when, and for which server it was told to the others.
        self._since: dict[Waiter, tuple[float, Server | None]] = {}
        self._timer: asyncio.TimerHandle | None = None  # while anybody waits
        self._look_after = 0.0
        self._between_looks = 0.0
        loop.add_reader(self._bell, self._rung)

    def close(self) -> None:
        self._loop.remove_reader(self._bell)
        if self._timer is not None:
            self._timer.cancel()

    def leave(self) -> None:
        """The others are no more: their leases are not counted any more, and the pools are this
        worker's alone. What is held here stays written. It is closed then."""
        self.close()
        for row in range(len(self._used)):
            self._set(row, 0)
            self._mine.waiting[row] = 0.0
        for pool in self._pool_rows:
            pool.peers = None
        for pool in self._pool_rows:
            pool.look_at_queue()

    def set_rows(self, pools: Mapping[str, Pool], rows: Mapping[str, int]) -> None:
        """The rows of the servers and the pools, by `row_of`, as the supervisor dealt them out.

        What is gone is no matter of the others' any more: what is held there is not counted, and
        the queue of a pool that is gone is this worker's own. Places on new servers can be had
        from now on. What a pool that is new here holds is told to the others, and who waits there
        waits since now for them.
        """
        mine = {
            server: rows[row_of(name, server)]
            for name, pool in pools.items()
            for server in pool.servers
        }
        for row, used in enumerate(self._used):
            if used is not None and mine.get(used[1]) != row:
                self._set(row, 0)
                self._mine.loads[row] = 0
                self._mine.waiting[row] = 0.0
        pool_rows = {pool: rows[name] for name, pool in pools.items()}
        for pool in self._pool_rows.keys() - pool_rows:
            pool.peers = None
            self._mine.waiting[self._pool_rows[pool]] = 0.0
            for waiter in pool.waiting:
                del self._since[waiter]
        self._rows = mine
        self._pool_rows = pool_rows
        count = 1 + max((*mine.values(), *self._pool_rows.values()), default=-1)
        self._elsewhere = (self._elsewhere + [0] * count)[:count]
        self._used = [None] * count
        now = self._clock()
        for pool in pools.values():
            is_new, pool.peers = pool.peers is not self, self
            for server in pool.servers:
                self._used[mine[server]] = pool, server
                if is_new:
                    self._mine.loads[mine[server]] = server.in_flight
            if is_new:
                self._since.update((waiter, (now, waiter.pinned_to)) for waiter in pool.waiting)
            self._tell_queue(pool)
        self._between_looks = count * _LOOK_PER_ROW
        if self._since and self._timer is None:
            self._timer = self._loop.call_later(_LOOK_WAITING, self._look_while_waiting)
        self.look(force=True)
        for pool in self._pool_rows:
            pool.look_at_queue()

    # What the pool asks (`pool.Peers`).

    def leased(self, server: Server, change: int) -> None:
        """One lease more here, or one less: then the others' of this moment are known, too."""
        row = self._rows.get(server)
        if row is not None:  # else it is gone
            self._mine.loads[row] += change
            if change < 0 and server.max_connections:
                self._look_at(row)

    def is_over(self, server: Server) -> bool:
        """With the others' leases of this very moment."""
        row = self._rows.get(server)
        if row is not None:
            self._look_at(row)
        return server.in_flight > server.max_connections

    def queue_changed(self, pool: Pool, waiter: Waiter, *, joined: bool) -> None:
        """Tell the others since when the first waits here, for any server or for its own."""
        told_for = waiter.pinned_to
        if joined:
            self._since[waiter] = self._clock(), told_for
        else:
            _, told_for = self._since.pop(waiter, (0.0, told_for))
        self._tell_first(pool, None)
        if told_for is not None:
            self._tell_first(pool, told_for)
        if joined:
            self._look_again(pool)
            if self._timer is None:
                self._timer = self._loop.call_later(_LOOK_WAITING, self._look_while_waiting)

    def queue_moved(self, pool: Pool) -> None:
        """Tell the others for whom they wait here now, since when they have all along."""
        self._tell_queue(pool)
        self._look_again(pool)

    def is_others_turn(self, pool: Pool, server: Server, waiter: Waiter) -> bool:
        """Somebody has waited longer elsewhere: there it is known now.

        A new server, in a reload, is nobody's until all know its row (`set_rows`).
        """
        if server not in self._rows:
            return True
        longest, other = self._longest_wait(pool, server)
        if other is None or longest >= self._since[waiter][0]:
            return False
        self._ring(other)
        return True

    def has_room(self, pool: Pool, server: Server) -> None:
        """A place is free, and nobody here waits for it."""
        _, other = self._longest_wait(pool, server)
        if other is not None:
            self._ring(other)

    # Looking at them.

    def look(self, *, force: bool = False) -> None:
        """Take over what the others hold; at the first pick of a turn, and not too often."""
        now = self._clock()
        if now < self._look_after and not force:
            return
        self._look_after = now + self._between_looks
        size = len(self._used) * _CELL
        changed = False
        for place, (_, part) in enumerate(self._others):
            loads = bytes(part.raw_loads[:size])
            if loads != self._seen[place]:
                self._seen[place] = loads
                changed = True
        if changed or force or self._is_ahead:
            self._is_ahead = False
            views = [memoryview(seen).cast("q") for seen in self._seen]
            for row, total in enumerate(map(sum, zip(*views, strict=True))):
                if total != self._elsewhere[row]:
                    self._set(row, total)

    def _look_at(self, row: int) -> None:
        """The others' leases in this row, now."""
        elsewhere = sum([part.loads[row] for _, part in self._others])
        if elsewhere != self._elsewhere[row]:
            self._is_ahead = True
            self._set(row, elsewhere)

    def _set(self, row: int, elsewhere: int) -> None:
        """So many leases on the server of this row are held by others."""
        used = self._used[row] if row < len(self._used) else None
        if used is None:
            return
        change = elsewhere - self._elsewhere[row]
        if change:
            pool, server = used
            self._elsewhere[row] = elsewhere
            server.in_flight += change
            pool.in_flight += change
            if pool.touched is not None:
                pool.touched.add(server)

    # Places.

    def _longest_wait(self, pool: Pool, server: Server) -> tuple[float, int | None]:
        """Since when somebody waits elsewhere for a place on `server`, and in which worker."""
        of_server = self._rows.get(server)  # None: it is gone
        of_pool = self._pool_rows[pool]
        rows = (of_pool,) if of_server is None else (of_server, of_pool)
        longest, found = float("inf"), None
        for other, part in self._others:
            for row in rows:
                since = part.waiting[row]
                if 0.0 < since < longest:
                    longest, found = since, other
        return longest, found

    def _ring(self, other: int) -> None:
        with suppress(OSError):
            os.eventfd_write(self._bells[other], 1)

    def _rung(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        self.look(force=True)
        for pool, row in self._pool_rows.items():
            waiting = len(pool.waiting)
            pool.look_at_queue()
            # Not if somebody waits here who can't use the place: two of these would ring for ever.
            if len(pool.waiting) < waiting or not self._mine.waiting[row]:
                self._pass_on(pool)

    def _pass_on(self, pool: Pool) -> None:
        """Who rang may have given back more places than were needed here."""
        for server in pool.servers:
            if server.max_connections and not server.is_full:
                self.has_room(pool, server)

    def _look_while_waiting(self) -> None:
        self._timer = None
        self.look(force=True)
        for pool in self._pool_rows:
            self._tell_queue(pool)
            pool.look_at_queue()
        if self._since:
            self._timer = self._loop.call_later(_LOOK_WAITING, self._look_while_waiting)

    def _look_again(self, pool: Pool) -> None:
        """A place may have been given back just before the others could see that we wait."""
        self.look(force=True)
        if any(not s.is_full for s in pool.servers if s.max_connections):
            self._loop.call_soon(pool.look_at_queue)

    # Those who wait here.

    def _tell_queue(self, pool: Pool) -> None:
        """All of it anew: who waited for a server that is out waits for another now, or any."""
        told_for = {self._since[waiter][1] for waiter in pool.waiting}
        for waiter in pool.waiting:
            self._since[waiter] = self._since[waiter][0], waiter.pinned_to
        for server in told_for | {waiter.pinned_to for waiter in pool.waiting} | {None}:
            self._tell_first(pool, server)

    def _tell_first(self, pool: Pool, server: Server | None) -> None:
        """Since when the first waits for `server`, or for any."""
        row = self._pool_rows[pool] if server is None else self._rows.get(server)
        if row is not None:
            first = next((w for w in pool.waiting if w.pinned_to is server), None)
            self._mine.waiting[row] = 0.0 if first is None else self._since[first][0]
