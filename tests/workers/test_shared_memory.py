"""Shared memory: regions do not overlap, and every process sees all of them."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import pytest

from hermes_lb.backends import RequestCounters
from hermes_lb.workers.shared_memory import CLIENT_BUCKETS, GAUGES, ROWS, Region, SharedMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS_HERE = 20
WIDTH = RequestCounters.WIDTH
VIEWS = {
    "loads": ROWS_HERE,
    "queued": ROWS_HERE,
    "waiting": ROWS_HERE,
    "counters": ROWS_HERE * WIDTH,
    "clients": CLIENT_BUCKETS,
    "requests": CLIENT_BUCKETS,
    "gauges": GAUGES,
}


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    memory = SharedMemory.create(3, ROWS_HERE)
    yield memory
    memory.close()


def taken(memory: SharedMemory) -> int:
    """Bytes of memory allocated for it."""
    return os.fstat(memory.fd).st_blocks * 512


def test_every_cell_is_one_of_its_own(memory: SharedMemory):
    number = 0
    for region in memory.regions:
        for name in VIEWS:
            view = getattr(region, name)
            for place in range(len(view)):
                view[place] = number = number + 1
    number = 0
    for region in memory.regions:
        for name in VIEWS:
            view = getattr(region, name)
            assert view.tolist() == list(range(number + 1, number + len(view) + 1))
            number += len(view)


def test_the_brief_cells_of_a_row_are_written_last(memory: SharedMemory):
    class Noting:
        """A view that notes the slices that are written."""

        def __init__(self) -> None:
            self.slices: list[slice] = []

        def __setitem__(self, place: slice, values: object) -> None:
            self.slices.append(place)

    region, noting = memory.regions[0], Noting()
    region.counters, view = noting, region.counters  # type: ignore[assignment]
    region.write_counters(1, [1.0] * WIDTH)
    region.counters = view
    brief = RequestCounters.BRIEF
    assert noting.slices == [slice(WIDTH + brief, 2 * WIDTH), slice(WIDTH, WIDTH + brief)]


def test_each_view_has_its_cells_of_8_bytes_in_a_region_of_whole_pages(memory: SharedMemory):
    region = memory.regions[0]
    assert {name: len(getattr(region, name)) for name in VIEWS} == VIEWS
    assert {getattr(region, name).itemsize for name in VIEWS} == {8}
    assert Region.size(ROWS_HERE) % mmap.PAGESIZE == 0
    assert Region.size(ROWS_HERE) >= 8 * sum(VIEWS.values())
    assert len(memory.regions) == 3


def test_raw_loads_are_the_loads(memory: SharedMemory):
    region = memory.regions[1]
    region.loads[2] = -7
    assert bytes(region.raw_loads[16:24]) == (-7).to_bytes(8, "little", signed=True)


def test_two_maps_of_it_see_each_other(memory: SharedMemory):
    other = SharedMemory(os.dup(memory.fd), ROWS_HERE)
    memory.regions[2].loads[5] = 3
    other.regions[0].waiting[1] = 1.5
    other.regions[1].write_counters(7, range(WIDTH))
    assert other.regions[2].loads[5] == 3
    assert memory.regions[0].waiting[1] == 1.5
    assert list(memory.regions[1].read_counters(7)) == list(range(WIDTH))
    other.close()
    assert memory.regions[2].loads[5] == 3


def test_fewer_counters_than_a_row_has_leave_the_rest(memory: SharedMemory):
    region = memory.regions[0]
    region.write_counters(3, range(1, WIDTH + 1))
    region.write_counters(3, [9.0, 9.0])
    assert list(region.read_counters(3, 4)) == [9.0, 9.0, 3.0, 4.0]
    assert region.read_counters(3)[-1] == WIDTH


def fill(region: Region, row: int) -> None:
    region.loads[row], region.queued[row], region.waiting[row] = 1, 2, 3.0
    region.write_counters(row, [4.0] * WIDTH)


def test_a_row_that_is_cleared_is_cleared_alone(memory: SharedMemory):
    region, other = memory.regions[:2]
    for row in range(ROWS_HERE):
        fill(region, row)
    fill(other, 4)
    region.clear_row(4)
    assert [row for row in range(ROWS_HERE) if region.is_row_clear(row)] == [4]
    assert not other.is_row_clear(4)


@pytest.mark.parametrize("what", ["loads", "queued", "waiting", "counters"])
def test_a_row_with_anything_in_it_is_not_clear(memory: SharedMemory, what: str):
    region = memory.regions[0]
    place = 3 * WIDTH + WIDTH - 1 if what == "counters" else 3
    getattr(region, what)[place] = 1
    assert [row for row in range(ROWS_HERE) if not region.is_row_clear(row)] == [3]


def test_a_dead_workers_region_is_cleared_and_no_other(memory: SharedMemory):
    for region in memory.regions:
        for name in VIEWS:
            view = getattr(region, name)
            view[0] = view[len(view) - 1] = 1
    memory.clear(1)
    for name in VIEWS:
        ends = [(getattr(region, name)[0], getattr(region, name)[-1]) for region in memory.regions]
        assert ends == [(1, 1), (0, 0), (1, 1)], name


def test_what_nobody_uses_takes_no_memory_and_what_is_cleared_gives_it_back():
    memory = SharedMemory.create(4, ROWS)
    fill(memory.regions[1], 0)
    used = taken(memory)
    assert used < 64 * 1024
    memory.clear(0)
    assert taken(memory) == used
    memory.clear(1)
    assert taken(memory) == 0
    memory.close()


def test_a_closed_block_leaves_no_descriptor_open():
    before = os.listdir("/proc/self/fd")
    SharedMemory.create(2, ROWS_HERE).close()
    assert os.listdir("/proc/self/fd") == before
