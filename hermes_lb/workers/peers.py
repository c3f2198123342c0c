"""The other workers' leases and queues, as a worker's pools see them, by shared memory.

Leases. Each worker writes its own to its region. Those of the others are added to
`Server.in_flight`, so every strategy and every limit counts all workers: at the first pick of a
loop iteration and, for servers with a limit, each time a place is taken or released. A worker
writes first and reads then (Dekker), so two that want one place can't miss each other.

Queue. A worker that releases a place on a full server finds the longest waiter, here or in another
worker, and wakes that worker by its eventfd. A worker that was woken for more places than it needs
wakes the next one. So the queue is first come, first served over all processes, up to the latency
of a wakeup. Waiters also look periodically: a wakeup may come to nothing, and a worker that dies
sends none.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from hermes_lb.workers.layout import server_row

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Mapping

    from hermes_lb.backends import Pool, Server, Waiter
    from hermes_lb.workers.shared_memory import Region, SharedMemory

# Seconds between two looks, per row: with 1,000 servers one look a millisecond.
_LOOK_PER_ROW = 1e-6
# Seconds between two looks while requests wait.
_LOOK_WAITING = 0.5
_CELL = 8


class Peers:
    """Worker `number`'s view of the others (`pool.Peers`).

    `wakeups` has an eventfd for each worker.
    """

    def __init__(
        self,
        memory: SharedMemory,
        number: int,
        wakeups: list[int],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._mine = memory.regions[number]
        self._others: list[tuple[int, Region]] = [
            (other, region) for other, region in enumerate(memory.regions) if other != number
        ]
        self._wakeup = wakeups[number]
        self._wakeups = wakeups
        self._loop = loop
        self._clock: Callable[[], float] = loop.time
        self._rows: dict[Server, int] = {}
        self._pool_rows: dict[Pool, int] = {}
        self._used: list[tuple[Pool, Server] | None] = []  # by row
        self._seen: list[bytes] = [b""] * len(self._others)  # their loads at the last look
        self._elsewhere: list[int] = []  # by row: leases of the others, included in `in_flight`
        self._is_ahead = False  # `_elsewhere` has something newer than `_seen`
        # Waiters of this worker: since when, and the server published for them.
        self._since: dict[Waiter, tuple[float, Server | None]] = {}
        self._timer: asyncio.TimerHandle | None = None  # while there are waiters
        self._look_after = 0.0
        self._between_looks = 0.0
        loop.add_reader(self._wakeup, self._woken)

    def close(self) -> None:
        self._loop.remove_reader(self._wakeup)
        if self._timer is not None:
            self._timer.cancel()

    def leave(self) -> None:
        """Stop counting the others' leases; the pools are local then. This worker's leases stay
        in the memory. Closes the object."""
        self.close()
        for row in range(len(self._used)):
            self._set(row, 0)
            self._mine.waiting[row] = 0.0
        for pool in self._pool_rows:
            pool.peers = None
        for pool in self._pool_rows:
            pool.look_at_queue()

    def set_rows(self, pools: Mapping[str, Pool], rows: Mapping[str, int]) -> None:
        """Use these rows (keys: `server_row`, or the pool's name), as the supervisor assigned them.

        Leases on removed servers are no longer counted, and the queue of a removed pool becomes
        local. Places on new servers become available. Leases of a pool that is new here are
        published, and its waiters queue among those of other processes with the present time.
        """
        mine = {
            server: rows[server_row(name, server)]
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
            self._announce_queue(pool)
        self._between_looks = count * _LOOK_PER_ROW
        if self._since and self._timer is None:
            self._timer = self._loop.call_later(_LOOK_WAITING, self._look_while_waiting)
        self.look(force=True)
        for pool in self._pool_rows:
            pool.look_at_queue()

    def change_servers(
        self, pool: Pool, rows: Mapping[Server, int], gone: Iterable[Server]
    ) -> None:
        """Use these rows for servers of `pool`, and count leases on those that are gone no more."""
        for server in gone:
            if (row := self._rows.pop(server, None)) is not None:
                self._set(row, 0)
                self._used[row] = None
                self._mine.loads[row] = 0
                self._mine.waiting[row] = 0.0
        for server, row in rows.items():
            if self._rows.get(server) == row:
                continue
            missing = row + 1 - len(self._used)
            if missing > 0:
                self._used += [None] * missing
                self._elsewhere += [0] * missing
            self._rows[server] = row
            self._used[row] = pool, server
            self._elsewhere[row] = 0
            self._mine.loads[row] = server.in_flight
            self._look_at(row)
        self._between_looks = len(self._used) * _LOOK_PER_ROW
        pool.look_at_queue()

    # Called by the pool (`pool.Peers`).

    def leased(self, server: Server, change: int) -> None:
        """One lease more or less here. A release also reads the others' leases of the moment."""
        row = self._rows.get(server)
        if row is not None:  # else the server is removed
            self._mine.loads[row] += change
            if change < 0 and server.max_connections:
                self._look_at(row)

    def is_over(self, server: Server) -> bool:
        """By the others' leases of this moment."""
        row = self._rows.get(server)
        if row is not None:
            self._look_at(row)
        return server.in_flight > server.max_connections

    def queue_changed(self, pool: Pool, waiter: Waiter, *, joined: bool) -> None:
        """Publish since when the first waits here, for any server or for its own."""
        announced_for = waiter.pinned_to
        if joined:
            self._since[waiter] = self._clock(), announced_for
        else:
            _, announced_for = self._since.pop(waiter, (0.0, announced_for))
        self._announce_first(pool, None)
        if announced_for is not None:
            self._announce_first(pool, announced_for)
        if joined:
            self._look_again(pool)
            if self._timer is None:
                self._timer = self._loop.call_later(_LOOK_WAITING, self._look_while_waiting)

    def queue_advanced(self, pool: Pool) -> None:
        """Publish which servers requests wait for now; they keep their place in the queue."""
        self._announce_queue(pool)
        self._look_again(pool)

    def is_others_turn(self, pool: Pool, server: Server, waiter: Waiter) -> bool:
        """If a request waits longer in another worker, wake that worker and return True.

        Also True for a new server during a reload, until all workers know its row (`set_rows`).
        """
        if server not in self._rows:
            return True
        longest, other = self._longest_wait(pool, server)
        if other is None or longest >= self._since[waiter][0]:
            return False
        self._wake(other)
        return True

    def has_room(self, pool: Pool, server: Server) -> None:
        """A place is free and no request here waits for it: wake the worker of one that does."""
        _, other = self._longest_wait(pool, server)
        if other is not None:
            self._wake(other)

    # Reading the others' leases.

    def look(self, *, force: bool = False) -> None:
        """Take over the others' leases: at the first pick of an iteration, at a bounded rate."""
        now = self._clock()
        if now < self._look_after and not force:
            return
        self._look_after = now + self._between_looks
        size = len(self._used) * _CELL
        changed = False
        for place, (_, region) in enumerate(self._others):
            loads = bytes(region.raw_loads[:size])
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
        """Read the others' leases in this row."""
        elsewhere = sum([region.loads[row] for _, region in self._others])
        if elsewhere != self._elsewhere[row]:
            self._is_ahead = True
            self._set(row, elsewhere)

    def _set(self, row: int, elsewhere: int) -> None:
        """The others hold `elsewhere` leases on the server of this row."""
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

    # Free places.

    def _longest_wait(self, pool: Pool, server: Server) -> tuple[float, int | None]:
        """The earliest time since when another worker waits for `server`, and that worker."""
        of_server = self._rows.get(server)  # None: it is removed
        of_pool = self._pool_rows[pool]
        rows = (of_pool,) if of_server is None else (of_server, of_pool)
        longest, found = float("inf"), None
        for other, region in self._others:
            for row in rows:
                since = region.waiting[row]
                if 0.0 < since < longest:
                    longest, found = since, other
        return longest, found

    def _wake(self, other: int) -> None:
        with suppress(OSError):
            os.eventfd_write(self._wakeups[other], 1)

    def _woken(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wakeup)
        self.look(force=True)
        for pool, row in self._pool_rows.items():
            waiting = len(pool.waiting)
            pool.look_at_queue()
            # Not while a waiter here can't use the place: two such workers would wake for ever.
            if len(pool.waiting) < waiting or not self._mine.waiting[row]:
                self._pass_on(pool)

    def _pass_on(self, pool: Pool) -> None:
        """More places may have been released than are needed here."""
        for server in pool.servers:
            if server.max_connections and not server.is_full:
                self.has_room(pool, server)

    def _look_while_waiting(self) -> None:
        self._timer = None
        self.look(force=True)
        for pool in self._pool_rows:
            self._announce_queue(pool)
            pool.look_at_queue()
        if self._since:
            self._timer = self._loop.call_later(_LOOK_WAITING, self._look_while_waiting)

    def _look_again(self, pool: Pool) -> None:
        """A place may have been released just before the others could see this waiter."""
        self.look(force=True)
        if any(not s.is_full for s in pool.servers if s.max_connections):
            self._loop.call_soon(pool.look_at_queue)

    # Waiters of this worker.

    def _announce_queue(self, pool: Pool) -> None:
        """Publish the whole queue: waiters of a lost server wait for another one, or any."""
        announced_for = {self._since[waiter][1] for waiter in pool.waiting}
        for waiter in pool.waiting:
            self._since[waiter] = self._since[waiter][0], waiter.pinned_to
        for server in announced_for | {waiter.pinned_to for waiter in pool.waiting} | {None}:
            self._announce_first(pool, server)

    def _announce_first(self, pool: Pool, server: Server | None) -> None:
        """Publish since when the first waits for `server`, or for any."""
        row = self._pool_rows[pool] if server is None else self._rows.get(server)
        if row is not None:
            first = next((w for w in pool.waiting if w.pinned_to is server), None)
            self._mine.waiting[row] = 0.0 if first is None else self._since[first][0]
