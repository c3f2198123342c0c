"""The memory that all processes of a balancer share: who is how loaded, and what was counted.

One block of anonymous memory (memfd), made by the supervisor and mapped by every worker. It has a
part for each worker, and every cell in it is written by that worker alone; readers add up. So there
is no lock: a cell is 8 bytes at a multiple of 8, which the processor reads and writes whole.

    part of a worker
      loads     an integer a row: leases held
      queued    an integer a row: requests that wait
      waiting   a float a row: since when the first request waits for it; 0.0: nobody does
      counters  `width` floats a row: what `RequestCounters.cells` gave, a few times a second
      clients   an integer for each of `CLIENT_SLOTS`: open connections of the addresses that fall
                into the slot
      requests  the same, of the requests that were accepted from them
      gauges    a few floats about the process

A row belongs to a server, to a backend or to a frontend; the supervisor deals them out. A worker
that has died leaves its part as it was, and the supervisor clears it once it has added it up.
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
"""Servers, backends and frontends together. What nobody uses takes no memory."""

CLIENT_SLOTS = 65_536
"""Two addresses share a slot with a chance of 1 in so many: then they share a limit."""

GAUGES = 64

_CELL = 8
_WIDTH = RequestCounters.WIDTH


class Part:
    """One worker's part, as views of the memory: read by all, written by one."""

    def __init__(self, memory: memoryview, rows: int) -> None:
        self._memory = memory
        ends = [0]
        for cells in (rows, rows, rows, rows * _WIDTH, CLIENT_SLOTS, CLIENT_SLOTS, GAUGES):
            ends.append(ends[-1] + cells * _CELL)
        parts = [memory[start:end] for start, end in pairwise(ends)]
        self.loads = parts[0].cast("q")
        self.raw_loads = parts[0]
        self.queued = parts[1].cast("q")
        self.waiting = parts[2].cast("d")
        self.counters = parts[3].cast("d")
        self.clients = parts[4].cast("q")
        self.requests = parts[5].cast("q")
        self.gauges = parts[6].cast("d")

    @staticmethod
    def size(rows: int) -> int:
        """In bytes."""
        cells = 3 * rows + rows * _WIDTH + 2 * CLIENT_SLOTS + GAUGES
        return -(-cells * _CELL // mmap.PAGESIZE) * mmap.PAGESIZE

    def write_counters(self, row: int, cells: Iterable[float]) -> None:
        """What a row has counted so far; fewer cells than a row has leave the rest."""
        packed = array("d", cells)
        self.counters[row * _WIDTH : row * _WIDTH + len(packed)] = packed

    def read_counters(self, row: int, count: int = _WIDTH) -> Sequence[float]:
        """The first `count` cells of a row."""
        return self.counters[row * _WIDTH : row * _WIDTH + count].tolist()

    def clear_row(self, row: int) -> None:
        """Somebody else's from now on."""
        self.loads[row] = self.queued[row] = 0
        self.waiting[row] = 0.0
        self.write_counters(row, [0.0] * _WIDTH)

    def is_row_clear(self, row: int) -> bool:
        """Nothing is held or counted there."""
        is_idle = not (self.loads[row] or self.queued[row] or self.waiting[row])
        return is_idle and not any(self.read_counters(row))

    def release(self) -> None:
        views = self.loads, self.raw_loads, self.queued, self.waiting, self.counters
        for view in (*views, self.clients, self.requests, self.gauges, self._memory):
            view.release()


class Block:
    """The whole: `parts[n]` is worker n's."""

    def __init__(self, fd: int, rows: int = ROWS) -> None:
        """Map what `fd` names, which stays open as long as the block does."""
        self.fd = fd
        self.rows = rows
        size = Part.size(rows)
        self._map = mmap.mmap(fd, 0)
        whole = memoryview(self._map)
        count = len(whole) // size
        self.parts = [Part(whole[n * size : (n + 1) * size], rows) for n in range(count)]
        whole.release()

    @classmethod
    def create(cls, parts: int, rows: int = ROWS) -> Block:
        """New memory, all zero."""
        fd = os.memfd_create("hermes-lb", os.MFD_CLOEXEC)
        os.ftruncate(fd, Part.size(rows) * parts)
        return cls(fd, rows)

    @classmethod
    def take_over(cls, fd: int, parts: int, rows: int = ROWS) -> Block:
        """What another image has made; if it has fewer parts than these, new ones are added.

        Who has mapped it before knows those of then only.
        """
        size = Part.size(rows) * parts
        if os.fstat(fd).st_size < size:
            os.ftruncate(fd, size)
        return cls(fd, rows)

    def clear(self, number: int) -> None:
        """That worker has died: nothing is in flight there any more, and all was added up."""
        # Not by writing or even looking: that would take the memory that nobody has touched yet.
        size = Part.size(self.rows)
        self._map.madvise(mmap.MADV_REMOVE, number * size, size)

    def close(self) -> None:
        """Unmap it. It lives on in the other processes."""
        for part in self.parts:
            part.release()
        self._map.close()
        os.close(self.fd)
