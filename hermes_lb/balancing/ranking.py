"""The servers of a pool by a figure, kept from pick to pick: the least is found in O(log n).

Equals are picked by their weights, by stride scheduling (Waldspurger and Weihl, 1995): a server has
a pass, which a pick advances by 1 / weight, and of equals the one with the least pass is next.

Not compiled: an entry is known by its identity, and mypyc makes another tuple of it.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from hermes_lb.backends import Pool, Server

    # (figure, pass, place in the configuration, server)
    Entry = tuple[float, float, int, Server]

# Servers that can't take a request, after which all candidates are listed, in O(n).
_STEPS: Final = 16
_FEW: Final = 32  # stale entries


class Ranking:
    """Of `pool.up`. `figure` is read at the beginning, and when a server is said to have
    `changed`."""

    __slots__ = ("_entries", "_figure", "_heap", "_passes", "_present", "_up")

    def __init__(self, figure: Callable[[Server], float]) -> None:
        self._figure = figure
        self._up: list[Server] = []
        self._entries: dict[Server, Entry] = {}  # the valid one of each server
        self._heap: list[Entry] = []
        self._passes: dict[Server, float] = {}
        self._present = 0.0  # the pass of the last pick: where a server begins

    def least(self, pool: Pool, tried: Collection[Server], now: float) -> Server | None:
        """The candidate with the least figure, of equals the next; None if there is none."""
        if pool.up is not self._up:
            self._prepare(pool.up)
        heap, entries = self._heap, self._entries
        aside: list[Entry] = []
        found: Server | None = None
        while heap and len(aside) < _STEPS:
            entry = heap[0]
            server = entry[3]
            if entries.get(server) is not entry:
                heappop(heap)
            elif server.can_take(now) and server not in tried:
                found = server
                self._present = entry[1]
                passed = entry[1] + 1.0 / server.weight
                self._passes[server] = passed
                entries[server] = entry = (entry[0], passed, entry[2], server)
                heapreplace(heap, entry)
                break
            else:
                aside.append(heappop(heap))
        for entry in aside:
            heappush(heap, entry)
        if found is not None:
            return found
        return self._of(pool.candidates(tried, now))

    def in_order(self, pool: Pool, candidates: Collection[Server]) -> list[Server]:
        """As `least` would return them, of a pool with these alone, if it is asked next."""
        if pool.up is not self._up:
            self._prepare(pool.up)
        return sorted(candidates, key=self._order)

    def changed(self, server: Server) -> None:
        """Its figure is another one."""
        before = self._entries.get(server)
        if before is None:
            return
        # A server that was loaded for long does not catch up on the picks that it missed.
        passed = max(before[1], self._present)
        self._entries[server] = entry = (self._figure(server), passed, before[2], server)
        heap = self._heap
        heappush(heap, entry)
        if len(heap) > 2 * len(self._entries) + _FEW:
            self._heap = list(self._entries.values())
            heapify(self._heap)

    def forget(self, server: Server) -> None:
        """It has left the configuration."""
        self._passes.pop(server, None)

    def _prepare(self, up: list[Server]) -> None:
        self._up = up
        present = self._present
        self._entries = {
            server: (self._figure(server), self._passes.get(server, present), place, server)
            for place, server in enumerate(up)
        }
        self._heap = list(self._entries.values())
        heapify(self._heap)

    def _of(self, candidates: list[Server]) -> Server | None:
        """The same of servers that may be no part of `up`: backups, or the last resort."""
        found = min(candidates, key=self._order, default=None)
        if found is not None:
            passed = self._passes.get(found, self._present) + 1.0 / (found.weight or 1.0)
            self._passes[found] = passed
            self.changed(found)
        return found

    def _order(self, server: Server) -> tuple[float, float]:
        entry = self._entries.get(server)
        if entry is not None:
            return entry[0], entry[1]
        return self._figure(server), self._passes.get(server, self._present)
