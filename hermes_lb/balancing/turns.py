"""Smooth weighted turns (nginx, `ngx_http_upstream_get_peer`): a loop over all, and heaps for many.

Each turn adds its weight to every candidate: the same to all of one weight, so that among these the
order changes only by the one that was picked. So `Turns` has a heap for each weight, and what all
have gained is kept once, in `_count`. A turn costs O(log n) and a look at each of the different
weights. The picks are those of the loop, to the last one.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hermes_lb.backends import Server

    # (-credit at turn 0, place, server): the richest first, of equals the first in order.
    Entry = tuple[float, int, Server]

# Up to so many servers a loop over all of them is as fast.
FEW: Final = 32

_NOBODY: Final[Mapping[Server, int]] = {}


def next_in_turn(candidates: Iterable[Server]) -> Server:
    """The candidate whose turn it is; there must be at least one."""
    total: float = 0
    most: float = 0
    best: Server | None = None
    for server in candidates:
        gain = server.effective_weight
        server.current_weight = credit = server.current_weight + gain
        total += gain
        if credit > most or best is None:
            best, most = server, credit
        if gain != server.weight:
            server.effective_weight = gain + 1
    assert best is not None
    best.current_weight = most - total
    return best


class Turns:
    """Servers that take turns. While one is in here, its `current_weight` is out of date.

    Their effective weights are the full ones. Others take part in one turn as its guests.
    """

    __slots__ = ("_count", "_heaps", "_total", "entries")

    def __init__(self, servers: Iterable[tuple[int, Server]] = ()) -> None:
        """With (place, server) of each; `place` decides between equals."""
        self._count = 0
        self._total = 0.0
        self.entries: dict[Server, Entry] = {}  # for others to read: who is in here
        self._heaps: dict[float, list[Entry]] = {}
        for place, server in servers:
            entry = (-server.current_weight, place, server)
            self.entries[server] = entry
            self._heaps.setdefault(server.weight, []).append(entry)
            self._total += server.weight
        for heap in self._heaps.values():
            heapify(heap)

    def any(self) -> Server:
        """One of them."""
        return next(iter(self.entries))

    def add(self, place: int, server: Server) -> None:
        weight = server.weight
        entry = (weight * self._count - server.current_weight, place, server)
        entries = self.entries
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
        server.current_weight = weight * self._count - self.entries.pop(server)[0]
        self._total -= weight

    def next(self, guests: Mapping[Server, int] = _NOBODY) -> Server:
        """The one whose turn it is, of these and the guests; there must be at least one.

        `guests` are servers with their places, in order of place. Each of them is visited.
        """
        self._count = count = self._count + 1
        entries = self.entries
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
        total = self._total
        if guests:
            gained = 0.0
            for server in guests:
                gained += server.effective_weight
            guest = next_in_turn(guests)
            credit = guest.current_weight + gained  # before it paid
            if best is None or credit > most or (credit == most and guests[guest] < best[1]):
                guest.current_weight -= total
                return guest
            guest.current_weight = credit
            total += gained
        assert best is not None
        heappop(best_heap)
        owed, place, server = best
        entries[server] = entry = (owed + total, place, server)
        heappush(best_heap, entry)
        return server

    def credits(self) -> Iterator[tuple[Server, float]]:
        """What each has; their weights may have changed since they came."""
        for weight, heap in self._heaps.items():
            for entry in heap:
                server = entry[2]
                if self.entries.get(server) is entry:
                    yield server, weight * self._count - entry[0]

    def settle(self) -> None:
        """Write what each has back to it."""
        for server, credit in self.credits():
            server.current_weight = credit
