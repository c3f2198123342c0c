"""Smooth weighted round-robin (nginx, `ngx_http_upstream_get_peer`): a loop over all servers, and
heaps for many.

Each pick adds its weight to every candidate's credit: the same to all of one weight, so that among
these only the picked one changes its place. So `SmoothWrr` has a heap for each weight, and the
number of picks is kept once, in `_count`. A pick costs O(log n), and a comparison for each of the
different weights. It picks exactly what the loop would.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

from hermes_lb.balancing.loops import next_by_wrr

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hermes_lb.backends import Server

    # (-credit at pick 0, place, server): the richest first, of equals the first in order.
    Entry = tuple[float, int, Server]

# Up to this number of servers a loop over all of them is as fast.
FEW: Final = 32

_NO_GUESTS: Final[Mapping[Server, int]] = {}


class SmoothWrr:
    """Servers whose effective weight is their full weight. While a server is in here, its
    `current_weight` is out of date. Other servers take part in a single pick as its guests."""

    __slots__ = ("_count", "_heaps", "_total", "entries")

    def __init__(self, servers: Iterable[tuple[int, Server]] = ()) -> None:
        """With (place, server) of each; `place` decides between equals."""
        self._count = 0
        self._total = 0.0
        self.entries: dict[Server, Entry] = {}  # the servers in here; read by `LoadHeap`
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
        if len(heap) > 2 * len(entries) + FEW:  # most entries are stale
            heap[:] = [entry for entry in heap if entries.get(entry[2]) is entry]
            heapify(heap)

    def remove(self, server: Server) -> None:
        """Write its credit back. Its entry in the heap becomes stale."""
        weight = server.weight
        server.current_weight = weight * self._count - self.entries.pop(server)[0]
        self._total -= weight

    def next(self, guests: Mapping[Server, int] = _NO_GUESTS) -> Server:
        """The server with the most credit, of these and the guests; there must be at least one.

        `guests` are servers with their places, in order of place; a pick costs O(guests).
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
            guest = next_by_wrr(guests)
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
        """The credit of each, by the weights that they had when they were added."""
        for weight, heap in self._heaps.items():
            for entry in heap:
                server = entry[2]
                if self.entries.get(server) is entry:
                    yield server, weight * self._count - entry[0]

    def settle(self) -> None:
        """Write the credit of each back."""
        for server, credit in self.credits():
            server.current_weight = credit
