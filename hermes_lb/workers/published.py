"""A worker's numbers: what it counts goes into its part of the shared memory, a few times a second.

The data path adds to plain integers as ever; only here are they copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.workers.peers import row_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hermes_lb.backends import FrontendCounters, RequestCounters
    from hermes_lb.plane import DataPlane
    from hermes_lb.workers.block import Part

EVERY = 0.2
"""Seconds between two copies: what a killed process has counted since is lost."""


class Publisher:
    """Writes the numbers of `plane` into `part`."""

    def __init__(self, plane: DataPlane, part: Part, *, is_alone: bool) -> None:
        """`is_alone`: no other process wants to know the loads at once, so they go along.

        It may change.
        """
        self._plane = plane
        self._part = part
        self.is_alone = is_alone
        self._rows: dict[str, int] = {}
        self._written: dict[int, list[float]] = {}

    def set_rows(self, rows: Mapping[str, int]) -> None:
        """The rows of servers, backends and frontends from now on; new ones start at zero.

        What is gone leaves nothing in its row: who gets that shall not have its numbers.
        """
        for row in {*_differing(self._rows, rows), *_differing(rows, self._rows)}:
            self._part.clear_row(row)
            self._written.pop(row, None)
        self._rows = dict(rows)

    def publish(self) -> None:
        """Copy what has changed. 1 us a server, if nothing has."""
        part, written = self._part, self._written
        for row, counters in self._counted():
            cells = counters.cells()
            if written.get(row) != cells:
                written[row] = cells
                part.write_counters(row, cells)
        for name, pool in self._plane.pools.items():
            part.queued[self._rows[name]] = len(pool.waiting)
            for server in pool.servers:
                row = self._rows[row_of(name, server)]
                part.queued[row] = server.queued
                if self.is_alone:
                    part.loads[row] = server.in_flight
        plane = self._plane
        plane.look_inside()
        for place, value in enumerate(plane.process.cells()):
            part.gauges[place] = value

    def _counted(self) -> Iterator[tuple[int, RequestCounters | FrontendCounters]]:
        rows, plane = self._rows, self._plane
        for name, pool in plane.pools.items():
            yield rows[name], pool.unserved
            for server in pool.servers:
                yield rows[row_of(name, server)], server.counters
        for name, frontend in plane.counters.items():
            if (row := rows.get(frontend_row(name))) is not None:  # else it is about to be gone
                yield row, frontend


def _differing(rows: Mapping[str, int], others: Mapping[str, int]) -> list[int]:
    """The rows that are not the same key's among the others."""
    return [row for key, row in rows.items() if others.get(key) != row]


def frontend_row(name: str) -> str:
    """The name under which a frontend has a row."""
    return f"frontend {name}"
