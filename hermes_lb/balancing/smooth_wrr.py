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

    # (-credit at pick 0, place, server): the richest first, of equals the first in order. It is
    # valid while `entries` has this number for the server. (Its identity would not do, as compiled
    # code makes another tuple of it.)
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
        #: The servers in here, with -credit at pick 0; read by `LoadHeap`.
        self.entries: dict[Server, float] = {}
        self._heaps: dict[float, list[Entry]] = {}
        for place, server in servers:
            owed = -server.current_weight
            self.entries[server] = owed
            self._heaps.setdefault(server.weight, []).append((owed, place, server))
            self._total += server.weight
        for heap in self._heaps.values():
            heapify(heap)

    def any(self) -> Server:
        """One of them."""
        return next(iter(self.entries))

    def add(self, place: int, server: Server) -> None:
        weight = server.weight
        owed = weight * self._count - server.current_weight
        entries = self.entries
        entries[server] = owed
        heap = self._heaps.setdefault(weight, [])
        heappush(heap, (owed, place, server))
        self._total += weight
        if len(heap) > 2 * len(entries) + FEW:  # most entries are stale
            heap[:] = {entry[2]: entry for entry in heap if self._is_valid(entry)}.values()
            heapify(heap)

    def remove(self, server: Server) -> None:
        """Write its credit back. Its entry in the heap becomes stale."""
        weight = server.weight
        server.current_weight = weight * self._count - self.entries.pop(server)
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
            while heap:
                entry = heap[0]
                if entries.get(entry[2]) == entry[0]:
                    credit = weight * count - entry[0]
                    if best is None or credit > most or (credit == most and entry[1] < best[1]):
                        best, best_heap, most = entry, heap, credit
                    break
                heappop(heap)
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
        owed += total
        entries[server] = owed
        heappush(best_heap, (owed, place, server))
        return server

    def credits(self) -> Iterator[tuple[Server, float]]:
        """The credit of each, by the weights that they had when they were added."""
        for weight, heap in self._heaps.items():
            for entry in heap:
                if self._is_valid(entry):
                    yield entry[2], weight * self._count - entry[0]

    def _is_valid(self, entry: Entry) -> bool:
        return self.entries.get(entry[2]) == entry[0]

    def settle(self) -> None:
        """Write the credit of each back."""
        for server, credit in self.credits():
            server.current_weight = credit
