"""Copies a worker's counters into its region of the shared memory, a few times a second.

The data path adds to plain integers; only this module copies them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.workers.layout import frontend_row, server_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hermes_lb.backends import FrontendCounters, RequestCounters
    from hermes_lb.backends.histogram import Histogram
    from hermes_lb.plane import DataPlane
    from hermes_lb.workers.shared_memory import Region

EVERY = 0.2
"""Seconds between two copies: a killed process loses what it counted since the last one."""


class Publisher:
    """Writes the counters of `plane` into `region`."""

    def __init__(self, plane: DataPlane, region: Region, *, is_alone: bool) -> None:
        """`is_alone`, which may change: leases are published here as well, since no other worker
        needs them at once."""
        self._plane = plane
        self._part = region
        self.is_alone = is_alone
        self._rows: dict[str, int] = {}
        self._written: dict[int, list[float]] = {}
        self._buckets: dict[int, dict[str, list[int]]] = {}  # by row and histogram, as written

    def set_rows(self, rows: Mapping[str, int]) -> None:
        """The rows of servers, backends and frontends; new ones start at zero.

        Rows that are given up are cleared, for their next owner.
        """
        for row in {*_differing(self._rows, rows), *_differing(rows, self._rows)}:
            self._give_up(row)
        self._rows = dict(rows)

    def change_rows(self, new: Mapping[str, int], gone: Iterable[str]) -> None:
        """Rows for more servers; those of others are given up, and cleared."""
        for key in gone:
            if (row := self._rows.pop(key, None)) is not None:
                self._give_up(row)
        for key, row in new.items():
            if self._rows.get(key) != row:
                self._give_up(row)
                self._rows[key] = row

    def _give_up(self, row: int) -> None:
        self._part.clear_row(row)
        self._written.pop(row, None)
        self._buckets.pop(row, None)

    def publish(self) -> None:
        """Copy what has changed. 1 us a server if nothing has, 11 us if one request has ended."""
        region, written = self._part, self._written
        for row, counters in self._counted():
            brief = counters.brief()
            if written.get(row) != brief:
                written[row] = brief
                self._write_bulk(row, counters)
                region.write_cells(row, 0, brief)
        for name, pool in self._plane.pools.items():
            region.queued[self._rows[name]] = len(pool.waiting) + len(pool.starting)
            for server in pool.servers:
                row = self._rows[server_row(name, server)]
                region.queued[row] = server.queued
                if self.is_alone:
                    region.loads[row] = server.in_flight
        plane = self._plane
        plane.look_inside()
        for place, value in enumerate(plane.process.cells()):
            region.gauges[place] = value

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

    def _counted(self) -> Iterator[tuple[int, RequestCounters | FrontendCounters]]:
        rows, plane = self._rows, self._plane
        for name, pool in plane.pools.items():
            yield rows[name], pool.unserved
            for server in pool.servers:
                yield rows[server_row(name, server)], server.counters
        for name, frontend in plane.counters.items():
            if (row := rows.get(frontend_row(name))) is not None:  # else it is being removed
                yield row, frontend


def _differing(rows: Mapping[str, int], others: Mapping[str, int]) -> list[int]:
    """Rows that do not belong to the same key in `others`."""
    return [row for key, row in rows.items() if others.get(key) != row]
