"""Servers ordered by load, kept from pick to pick: shared by `round_robin` and `leastconn`.

The loops of nginx visit every server for every pick. Here servers of one load form a group with
smooth weighted round-robin (`SmoothWrr`), so that a pick costs O(log n), and a server changes its
group when its load has changed. Two kinds of servers are in no group. A full server is left out
until a lease ends. A server that has failed recently is checked at each pick, as the time decides
when it is tried again, and its weight grows with each pick; each such server costs a pick 0.3 us.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Final

from hermes_lb.balancing.smooth_wrr import SmoothWrr

if TYPE_CHECKING:
    from collections.abc import Collection

    from hermes_lb.backends import Pool, Server

_FULL: Final = inf  # as a load


class LoadHeap:
    """The servers of `pool.up`, as long as that is the same list and their limits stay.

    A pool can have only one of these at a time, as it collects the servers whose load has changed
    (`pool.touched`) for it.
    """

    def __init__(self, pool: Pool, *, by_load: bool = True) -> None:
        """Without `by_load` all loads are equal, but for full servers."""
        self._pool = pool
        self._by_load = by_load
        self._are_equal = pool.weights_are_equal
        self._up = pool.up
        self._limits = [server.max_connections for server in pool.up]
        self._places = {server: place for place, server in enumerate(pool.up)}
        self._apart = {s: place for s, place in self._places.items() if _has_failed_recently(s)}
        self._loads = {s: self._load(s) for s in pool.up if s not in self._apart}
        of_load: dict[float, list[tuple[int, Server]]] = {}
        for server, load in self._loads.items():
            of_load.setdefault(load, []).append((self._places[server], server))
        of_load.pop(_FULL, None)
        self._groups = {load: SmoothWrr(servers) for load, servers in of_load.items()}
        self._order = list(of_load)
        heapify(self._order)
        self._touched: set[Server] = set()
        if by_load or any(self._limits):
            pool.touched = self._touched

    def next(self, tried: Collection[Server], now: float) -> Server | None:
        """The next server of the least loaded group; None if none can take a request.

        With several loads, a server that is alone in its group is picked without paying credit.
        """
        if self._touched:
            for server in self._touched:
                if server in self._loads:
                    self._move(server)
            self._touched.clear()
        if self._apart or tried:
            return self._next_but(tried, now)
        order = self._order
        group = self._groups[order[0]] if order else None
        if group is None or not group.entries:
            group = self._least_loaded()
            if group is None:
                return None
        return group.next() if len(group.entries) > 1 else group.any()

    def credits(self) -> dict[Server, float]:
        """The credits of the servers whose `current_weight` is out of date."""
        return dict(pair for group in self._groups.values() for pair in group.credits())

    def settle(self) -> None:
        """Write the credit of each back."""
        for group in self._groups.values():
            group.settle()
        self._pool.touched = None

    def follow(self) -> bool:
        """Adapt to a changed pool. False: it has changed too much, build another one."""
        up = self._pool.up
        if up is not self._up or self._limits != [server.max_connections for server in up]:
            return False
        before = self._apart
        self._apart = {s: self._places[s] for s in up if _has_failed_recently(s)}
        for server in before:
            if server not in self._apart:
                self._join(server)
        for server in self._apart:
            if server not in before:
                self._leave(server)
        return True

    def _next_but(self, tried: Collection[Server], now: float) -> Server | None:
        aside = [server for server in tried if server in self._loads] if tried else ()
        for server in aside:
            self._leave(server)
        guests: dict[Server, int] = {}  # the least loaded of `_apart`
        lowest = _FULL
        for server, place in self._apart.items():
            if server.can_take(now) and server not in tried:
                load = self._load(server)
                if load < lowest:
                    guests, lowest = {}, load
                if load == lowest:
                    guests[server] = place
        picked = self._next_with(guests, lowest)
        for server in aside:
            self._join(server)
        for server in guests:
            if not _has_failed_recently(server):
                del self._apart[server]
                self._join(server)
        return picked

    def _next_with(self, guests: dict[Server, int], lowest: float) -> Server | None:
        """The next of the least loaded servers: in a group, or guests, whose load is `lowest`."""
        group = self._least_loaded()
        least = self._order[0] if group is not None else _FULL
        if lowest > least:
            guests = {}
        if group is None or lowest < least:
            if not guests:
                return None
            group = SmoothWrr()
        if self._by_load and len(group.entries) + len(guests) == 1:
            return group.any() if group.entries else next(iter(guests))
        return group.next(guests)

    def _least_loaded(self) -> SmoothWrr | None:
        order, groups = self._order, self._groups
        while order and not groups[order[0]].entries:
            del groups[heappop(order)]
        return groups[order[0]] if order else None

    def _load(self, server: Server) -> float:
        in_flight = server.in_flight
        if 0 < server.max_connections <= in_flight:
            return _FULL
        if not self._by_load:
            return 0
        load = in_flight + server.queued
        return load if self._are_equal else load / server.weight

    def _move(self, server: Server) -> None:
        if self._load(server) != self._loads[server]:
            self._leave(server)
            self._join(server)

    def _leave(self, server: Server) -> None:
        load = self._loads.pop(server)
        if load != _FULL:
            self._groups[load].remove(server)

    def _join(self, server: Server) -> None:
        self._loads[server] = load = self._load(server)
        if load == _FULL:
            return
        group = self._groups.get(load)
        if group is None:
            self._groups[load] = group = SmoothWrr()
            heappush(self._order, load)
        group.add(self._places[server], server)


def _has_failed_recently(server: Server) -> bool:
    return server.fails > 0 or server.effective_weight != server.weight
