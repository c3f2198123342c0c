"""`next_in_turn` for many servers, without visiting each: the same picks, to the last one.

Each turn adds its weight to every candidate: the same to all of one weight, so that among these the
order changes only by the one that was picked. So there is a heap for each weight, and what all have
gained is kept once, in `_count`. A turn costs O(log n) and a look at each of the different weights.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from hermes_lb.pool import Pool, Server

    # (-credit at turn 0, place, server): the richest first, of equals the first in order.
    Entry = tuple[float, int, Server]

# Up to so many servers a loop over all of them is as fast.
FEW = 32


_FULL = inf  # as a load


class Turns:
    """Servers that take turns. While one is in here, its `current_weight` is out of date."""

    __slots__ = ("_count", "_entries", "_heaps", "_total")

    def __init__(self, servers: Iterable[tuple[int, Server]] = ()) -> None:
        """With (place, server) of each; `place` decides between equals."""
        self._count = 0
        self._total = 0.0
        self._entries: dict[Server, Entry] = {}
        self._heaps: dict[float, list[Entry]] = {}
        for place, server in servers:
            entry = (-server.current_weight, place, server)
            self._entries[server] = entry
            self._heaps.setdefault(server.weight, []).append(entry)
            self._total += server.weight
        for heap in self._heaps.values():
            heapify(heap)

    def __len__(self) -> int:
        return len(self._entries)

    def any(self) -> Server:
        """One of them."""
        return next(iter(self._entries))

    def add(self, place: int, server: Server) -> None:
        weight = server.weight
        entry = (weight * self._count - server.current_weight, place, server)
        entries = self._entries
        entries[server] = entry
        heap = self._heaps.setdefault(weight, [])
        heappush(heap, entry)
        self._total += weight
        if len(heap) > 2 * len(entries) + FEW:  # most of it is of those that have left
            heap[:] = [entry for entry in heap if entries.get(entry[2]) is entry]
            heapify(heap)

    def remove(self, server: Server) -> None:
        """It takes what it has with it. Its entry in the heap is passed over from now on."""
        weight = server.weight
        server.current_weight = weight * self._count - self._entries.pop(server)[0]
        self._total -= weight

    def next(self) -> Server:
        """The one whose turn it is; there must be at least one."""
        self._count = count = self._count + 1
        entries = self._entries
        best: Entry | None = None
        best_heap: list[Entry] = []
        most = 0.0
        for weight, heap in self._heaps.items():
            while heap and entries.get(heap[0][2]) is not heap[0]:
                heappop(heap)
            if heap:
                entry = heap[0]
                credit = weight * count - entry[0]
                if best is None or credit > most or (credit == most and entry[1] < best[1]):
                    best, best_heap, most = entry, heap, credit
        assert best is not None
        heappop(best_heap)
        owed, place, server = best
        entries[server] = entry = (owed + self._total, place, server)
        heappush(best_heap, entry)
        return server

    def settle(self) -> None:
        """Write what each has back to it; their weights may have changed meanwhile."""
        for weight, heap in self._heaps.items():
            for entry in heap:
                server = entry[2]
                if self._entries.get(server) is entry:
                    server.current_weight = weight * self._count - entry[0]


class Ranks:
    """Servers by load, those of one load in turns, the full ones apart.

    Only one of these at a time may serve a pool: it has the pool note whose load has changed.
    """

    def __init__(self, pool: Pool, *, by_load: bool = True) -> None:
        """Without `by_load` all are equal: only who is full matters."""
        self._pool = pool
        self._by_load = by_load
        self._are_equal = pool.weights_are_equal
        self._places = {server: place for place, server in enumerate(pool.up)}
        self._loads = {server: self._load(server) for server in pool.up}
        of_load: dict[float, list[tuple[int, Server]]] = {}
        for server, place in self._places.items():
            of_load.setdefault(self._loads[server], []).append((place, server))
        of_load.pop(_FULL, None)
        self._groups = {load: Turns(servers) for load, servers in of_load.items()}
        self._order = list(of_load)
        heapify(self._order)
        self._touched: set[Server] = set()
        pool.touched = self._touched

    def next(self) -> Server | None:
        """The least loaded one whose turn it is; None if all are full.

        A lone one has it, and pays nothing for it.
        """
        if self._touched:
            for server in self._touched:
                if server in self._places:
                    self._move(server)
            self._touched.clear()
        order, groups = self._order, self._groups
        while order and not groups[order[0]]:
            del groups[heappop(order)]
        if not order:
            return None
        group = groups[order[0]]
        return group.next() if len(group) > 1 else group.any()

    def settle(self) -> None:
        """Write back what each has."""
        for group in self._groups.values():
            group.settle()
        self._pool.touched = None

    def _load(self, server: Server) -> float:
        in_flight = server.in_flight
        if 0 < server.max_connections <= in_flight:
            return _FULL
        if not self._by_load:
            return 0
        load = in_flight + server.queued
        return load if self._are_equal else load / server.weight

    def _move(self, server: Server) -> None:
        before, load = self._loads[server], self._load(server)
        if load == before:
            return
        self._loads[server] = load
        if before != _FULL:
            self._groups[before].remove(server)
        if load == _FULL:
            return
        group = self._groups.get(load)
        if group is None:
            self._groups[load] = group = Turns()
            heappush(self._order, load)
        group.add(self._places[server], server)


class _Settles(Protocol):
    def settle(self) -> None: ...


_K = TypeVar("_K", bound=_Settles)


class Kept(Generic[_K]):
    """What a strategy keeps from pick to pick, as long as no server in rotation has failed.

    Ask `refresh` when `version` is not the pool's, and for every request that has tried some.
    """

    __slots__ = ("_build", "value", "version")

    def __init__(self, build: Callable[[Pool], _K]) -> None:
        self._build = build
        self.value: _K | None = None
        self.version = -1

    def refresh(self, pool: Pool, tried: Collection[Server]) -> None:
        """Sets `value`; None: it is not worth it, or not possible, and the servers are settled.

        Fractions, of a slow start, would be rounded otherwise than `next_in_turn` rounds them.
        """
        if self.value is not None:
            self.value.settle()
            self.value = None
        self.version = pool.version
        if not pool.is_sound or len(pool.up) <= FEW:
            return
        if not tried and all(s.weight == s.effective_weight == int(s.weight) for s in pool.up):
            self.value = self._build(pool)
        else:
            self.version = -1  # it will be possible before anything changes
