"""Shared memory of all processes of a balancer: leases, queues and counters.

Anonymous memory (memfd), created by the supervisor and mapped by every worker. Each worker has a
region, whose cells it alone writes; readers add up. So there is no lock: a cell is 8 bytes at a
multiple of 8, which the processor reads and writes atomically.

    region of a worker
      loads     an integer per row: leases held
      queued    an integer per row: requests that wait
      waiting   a float per row: since when the first request waits for it; 0.0: none
      counters  `WIDTH` floats per row: what `RequestCounters.cells` gave, a few times a second
      clients   an integer per bucket (`CLIENT_BUCKETS`): open connections of client addresses that
                hash to it
      requests  the same, of accepted requests
      gauges    a few floats about the process: `ProcessView.cells`, and from the end `HEARTBEAT`...

A row belongs to a server, a backend or a frontend; the supervisor assigns them (`layout`). The
region of a worker that has ended is added up and then cleared by the supervisor.
"""

from __future__ import annotations

import mmap
import os
from array import array
from itertools import pairwise
from typing import TYPE_CHECKING

from hermes_lb.backends.counters import RequestCounters

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROWS = 16_384
"""Servers, backends and frontends together. Unused rows take no memory."""

CLIENT_BUCKETS = 65_536
"""Two addresses share a bucket, and so a limit, with a probability of 1 in `CLIENT_BUCKETS`."""

GAUGES = 64

HEARTBEAT = -1
"""The place of the time when the worker last wrote it."""
CONNECTIONS = -2
"""Of the number of its client connections (`workers.spread`)."""
SERVES = -3
"""Of a number that stands for the addresses where it accepts; 0.0: it takes no connections."""
SLOT = -4
"""Of its slot."""

_CELL = 8
_WIDTH, _BRIEF = RequestCounters.WIDTH, RequestCounters.BRIEF


class Region:
    """Views of one worker's region: read by all processes, written by one."""

    def __init__(self, memory: memoryview, rows: int) -> None:
        self._memory = memory
        ends = [0]
        for cells in (rows, rows, rows, rows * _WIDTH, CLIENT_BUCKETS, CLIENT_BUCKETS, GAUGES):
            ends.append(ends[-1] + cells * _CELL)
        regions = [memory[start:end] for start, end in pairwise(ends)]
        self.loads = regions[0].cast("q")
        self.raw_loads = regions[0]
        self.queued = regions[1].cast("q")
        self.waiting = regions[2].cast("d")
        self.counters = regions[3].cast("d")
        self.clients = regions[4].cast("q")
        self.requests = regions[5].cast("q")
        self.gauges = regions[6].cast("d")

    @staticmethod
    def size(rows: int) -> int:
        """In bytes."""
        cells = 3 * rows + rows * _WIDTH + 2 * CLIENT_BUCKETS + GAUGES
        return -(-cells * _CELL // mmap.PAGESIZE) * mmap.PAGESIZE

    def write_counters(self, row: int, cells: Iterable[float]) -> None:
        """Write the counters of a row; with fewer cells than a row has, the rest is kept.

        The first cells last: a reader that sees new ones there sees the others too
        (`Counters.brief`).
        """
        packed, start = array("d", cells), row * _WIDTH
        self.counters[start + _BRIEF : start + len(packed)] = packed[_BRIEF:]
        self.counters[start : start + min(_BRIEF, len(packed))] = packed[:_BRIEF]

    def write_cells(self, row: int, first: int, cells: Sequence[float]) -> None:
        """Write a part of a row's counters, from cell `first` on."""
        start = row * _WIDTH + first
        self.counters[start : start + len(cells)] = array("d", cells)

    def read_counters(self, row: int, count: int = _WIDTH) -> Sequence[float]:
        """The first `count` cells of a row."""
        return self.counters[row * _WIDTH : row * _WIDTH + count].tolist()

    def raw_counters(self, row: int, count: int) -> bytes:
        """The same as bytes, to find out whether they are as before."""
        return self.counters[row * _WIDTH : row * _WIDTH + count].tobytes()

    def clear_row(self, row: int) -> None:
        """For the row's next owner."""
        self.loads[row] = self.queued[row] = 0
        self.waiting[row] = 0.0
        self.write_counters(row, [0.0] * _WIDTH)

    def is_row_clear(self, row: int) -> bool:
        """No leases, waiters or counters are there."""
        is_idle = not (self.loads[row] or self.queued[row] or self.waiting[row])
        return is_idle and not any(self.read_counters(row))

    def release(self) -> None:
        views = self.loads, self.raw_loads, self.queued, self.waiting, self.counters
        for view in (*views, self.clients, self.requests, self.gauges, self._memory):
            view.release()


class SharedMemory:
    """The whole: `regions[n]` is worker n's."""

    def __init__(self, fd: int, rows: int = ROWS) -> None:
        """Map the memory of `fd`, which has to stay open as long as this object is."""
        self.fd = fd
        self.rows = rows
        size = Region.size(rows)
        self._map = mmap.mmap(fd, 0)
        whole = memoryview(self._map)
        count = len(whole) // size
        self.regions = [Region(whole[n * size : (n + 1) * size], rows) for n in range(count)]
        whole.release()

    @classmethod
    def create(cls, regions: int, rows: int = ROWS) -> SharedMemory:
        """New memory, all zero."""
        fd = os.memfd_create("hermes-lb", os.MFD_CLOEXEC)
        os.ftruncate(fd, Region.size(rows) * regions)
        return cls(fd, rows)

    @classmethod
    def take_over(cls, fd: int, regions: int, rows: int = ROWS) -> SharedMemory:
        """The previous generation's memory, grown to `regions` if it has fewer.

        Processes that have mapped it before see only the regions of that time.
        """
        size = Region.size(rows) * regions
        if os.fstat(fd).st_size < size:
            os.ftruncate(fd, size)
        return cls(fd, rows)

    def clear(self, number: int) -> None:
        """The worker has ended, and its counters were added up."""
        # Not by writes, or even reads: they would allocate pages that were never touched.
        size = Region.size(self.rows)
        self._map.madvise(mmap.MADV_REMOVE, number * size, size)

    def close(self) -> None:
        """Unmap it; other processes keep it."""
        for region in self.regions:
            region.release()
        self._map.close()
        os.close(self.fd)
