"""Copies a worker's counters into its region of the shared memory, a few times a second.

The data path adds to plain integers; only this module copies them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.workers.layout import frontend_row, server_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hermes_lb.backends import FrontendCounters, Pool, RequestCounters, Server
    from hermes_lb.backends.histogram import Histogram
    from hermes_lb.plane import DataPlane
    from hermes_lb.workers.shared_memory import Region

EVERY = 0.2
"""Seconds between two copies: a killed process loses what it counted since the last one."""

# Servers that are copied in one iteration of the loop: 0.1 ms, or 1 ms if all are busy.
_AT_ONCE = 100


class Publisher:
    """Writes the counters of `plane` into `region`."""

    def __init__(self, plane: DataPlane, region: Region, *, is_alone: bool) -> None:
        """`is_alone`, which may change: leases are published here as well, since no other worker
        needs them at once."""
        self._plane = plane
        self._part = region
        self.is_alone = is_alone
        self._rows: dict[str, int] = {}
        self._row_by_server: dict[Server, int] = {}  # found since the rows changed
        self._rows_changed = 0  # times
        self._written: dict[int, list[float]] = {}
        self._buckets: dict[int, dict[str, list[int]]] = {}  # by row and histogram, as written

    def set_rows(self, rows: Mapping[str, int]) -> None:
        """The rows of servers, backends and frontends; new ones start at zero.

        Rows that are given up are cleared, for their next owner.
        """
        self._forget_servers()
        for row in {*_differing(self._rows, rows), *_differing(rows, self._rows)}:
            self._give_up(row)
        self._rows = dict(rows)

    def change_rows(self, new: Mapping[str, int], gone: Iterable[str]) -> None:
        """Rows for more servers; those of others are given up, and cleared."""
        self._forget_servers()
        for key in gone:
            if (row := self._rows.pop(key, None)) is not None:
                self._give_up(row)
        for key, row in new.items():
            if self._rows.get(key) != row:
                self._give_up(row)
                self._rows[key] = row

    def _forget_servers(self) -> None:
        self._row_by_server.clear()
        self._rows_changed += 1

    def _give_up(self, row: int) -> None:
        self._part.clear_row(row)
        self._written.pop(row, None)
        self._buckets.pop(row, None)

    def publish(self) -> None:
        """Copy what has changed. 1 us a server if nothing has, 11 us if one request has ended."""
        for pool, server in self._servers():
            self._copy_server(pool, server)
        self._copy_rest()

    def publish_in_parts(self) -> Iterator[None]:
        """The same, with a pause after each `_AT_ONCE` servers, in which other tasks may run. If
        they change the rows, all is copied at once."""
        rows_changed = self._rows_changed
        for number, (pool, server) in enumerate(list(self._servers()), 1):
            self._copy_server(pool, server)
            if number % _AT_ONCE == 0:
                yield
                if self._rows_changed != rows_changed:
                    return self.publish()
        self._copy_rest()

    def _servers(self) -> Iterator[tuple[Pool, Server]]:
        for pool in self._plane.pools.values():
            for server in pool.servers:
                yield pool, server

    def _copy_server(self, pool: Pool, server: Server) -> None:
        row = self._row_by_server.get(server)
        if row is None:
            row = self._row_by_server[server] = self._rows[server_row(pool.name, server)]
        self._copy(row, server.counters)
        self._part.queued[row] = server.queued
        if self.is_alone:
            self._part.loads[row] = server.in_flight

    def _copy_rest(self) -> None:
        rows, plane, region = self._rows, self._plane, self._part
        for name, pool in plane.pools.items():
            self._copy(rows[name], pool.unserved)
            region.queued[rows[name]] = len(pool.waiting) + len(pool.starting)
        for name, counters in plane.counters.items():
            if (row := rows.get(frontend_row(name))) is not None:  # else it is being removed
                self._copy(row, counters)
        plane.look_inside()
        for place, value in enumerate(plane.process.cells()):
            region.gauges[place] = value

    def _copy(self, row: int, counters: RequestCounters | FrontendCounters) -> None:
        brief = counters.brief()
        if self._written.get(row) != brief:
            self._written[row] = brief
            self._write_bulk(row, counters)
            self._part.write_cells(row, 0, brief)

    def _write_bulk(self, row: int, counters: RequestCounters | FrontendCounters) -> None:
        """The histograms that have changed, before the cells by which readers see that."""
        if not counters.BULK:
            return
        known = self._buckets.setdefault(row, {})
        for slot, first in counters.BULK:
            histogram: Histogram = getattr(counters, slot)
            if known.get(slot) != histogram.counts:
                known[slot] = histogram.counts.copy()
                self._part.write_cells(row, first, histogram.cells())


def _differing(rows: Mapping[str, int], others: Mapping[str, int]) -> list[int]:
    """Rows that do not belong to the same key in `others`."""
    return [row for key, row in rows.items() if others.get(key) != row]
