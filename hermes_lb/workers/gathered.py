"""The counters of all workers, added up into the supervisor's pools and frontends."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from hermes_lb.backends import FrontendCounters, RequestCounters
from hermes_lb.backends.statistics import add_up
from hermes_lb.observe.observed import ProcessView
from hermes_lb.workers.layout import frontend_row, server_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hermes_lb.backends import Pool
    from hermes_lb.backends.statistics import Counters
    from hermes_lb.workers.shared_memory import SharedMemory

# By status and reason.
Refusals = Counter[tuple[int, str]]


class Gathered:
    """Reads the shared memory, and keeps the counters of processes that have ended."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._numbers: set[int] = set()  # regions in use
        self._base: dict[int, list[float]] = {}  # by row: counters of ended processes
        self._seen: dict[int, bytes] = {}  # by row: what its sum was made of
        self._refused: dict[int, dict[str, Refusals]] = {}
        self._base_refused: dict[str, Refusals] = {}
        self.processes: list[ProcessView] = []

    def joined(self, number: int, pid: int) -> None:
        """A process has begun to write to region `number`."""
        self._numbers.add(number)
        self._refused.setdefault(number, {})  # the previous generation may have left it
        self.processes.append(ProcessView(number, pid))
        self.processes.sort(key=lambda process: process.number)

    def left(self, number: int, rows: Mapping[str, int]) -> None:
        """The process has ended: keep its counters and clear its region."""
        region = self._memory.regions[number]
        for key, row in rows.items():
            width = _width(key)
            counted = region.read_counters(row, width)
            if any(counted):
                if width == FrontendCounters.WIDTH:
                    counted = [0.0, *counted[1:]]  # no open connections
                self._base[row] = add_up((self._base.get(row, [0.0] * width), counted))
        self._seen.clear()
        for frontend, refused in self._refused.pop(number, {}).items():
            self._base_refused.setdefault(frontend, Counter()).update(refused)
        self._memory.clear(number)
        self._numbers.discard(number)
        self.processes[:] = [one for one in self.processes if one.number != number]

    def state(self) -> dict[str, Any]:
        """For the next generation: counters of ended processes, refusals of living ones."""
        return {
            "base": list(self._base.items()),
            "refused": _as_lists(self._base_refused),
            "refused_by": [
                [number, _as_lists(refused)] for number, refused in self._refused.items()
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._base = dict(state["base"])
        self._base_refused = _from_lists(state["refused"])
        self._refused = {number: _from_lists(counts) for number, counts in state["refused_by"]}

    def forget(self, rows: Iterable[int]) -> None:
        """Drop the base of rows whose servers are removed."""
        for row in rows:
            self._base.pop(row, None)
            self._seen.pop(row, None)

    def refused(self, number: int, frontend: str, counts: list[list[object]]) -> None:
        """A process's refusals so far, by status and reason."""
        self._refused.setdefault(number, {})[frontend] = Counter(
            {(int(str(status)), str(reason)): int(str(count)) for status, reason, count in counts}
        )

    def fill(
        self,
        pools: Mapping[str, Pool],
        frontends: Mapping[str, FrontendCounters],
        rows: Mapping[str, int],
    ) -> None:
        """Update all totals. Some 4 us a server, 0.13 ms if its counters have changed."""
        regions = [self._memory.regions[number] for number in sorted(self._numbers)]
        for name, pool in pools.items():
            row = rows[name]
            self._load(pool.unserved, row)
            pool.waiting_elsewhere = sum(region.queued[row] for region in regions)
            pool.in_flight = 0
            for server in pool.servers:
                row = rows[server_row(name, server)]
                self._load(server.counters, row)
                in_flight = queued = 0
                for region in regions:
                    in_flight += region.loads[row]
                    queued += region.queued[row]
                server.in_flight, server.queued = in_flight, queued
                pool.in_flight += in_flight
        for name, counters in frontends.items():
            self._load(counters, rows[frontend_row(name)])
            counters.refused = self._all_refused(name)
        for process in self.processes:
            cells = self._memory.regions[process.number].gauges[: ProcessView.WIDTH].tolist()
            if cells[1]:  # it has published
                process.load(cells)
            process.look()

    def _load(self, counters: Counters, row: int) -> None:
        """The sum of all processes' counters, if it is another one than last time."""
        regions = [self._memory.regions[number] for number in self._numbers]
        brief = b"".join([region.raw_counters(row, counters.BRIEF) for region in regions])
        if self._seen.get(row) == brief:
            return
        counted = [region.read_counters(row, counters.WIDTH) for region in regions]
        if row in self._base or not counted:
            counted.append(self._base.get(row, [0.0] * counters.WIDTH))
        counters.load(add_up(counted))
        self._seen[row] = brief

    def _all_refused(self, frontend: str) -> Refusals:
        total = Counter(self._base_refused.get(frontend))
        for refused in self._refused.values():
            total.update(refused.get(frontend, {}))
        return total


def _as_lists(refused: Mapping[str, Refusals]) -> list[list[Any]]:
    """By frontend, status and reason -> JSON rows."""
    return [
        [frontend, *reason, count]
        for frontend, counts in refused.items()
        for reason, count in counts.items()
    ]


def _from_lists(rows: Iterable[list[Any]]) -> dict[str, Refusals]:
    refused: dict[str, Refusals] = {}
    for frontend, status, reason, count in rows:
        refused.setdefault(frontend, Counter())[status, reason] = count
    return refused


def _width(key: str) -> int:
    is_frontend = key.startswith(frontend_row(""))
    return FrontendCounters.WIDTH if is_frontend else RequestCounters.WIDTH
