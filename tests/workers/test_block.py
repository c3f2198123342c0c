"""The memory that processes share: whose is what, and what others see of it."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import pytest

from hermes_lb.backends import RequestCounters
from hermes_lb.workers.block import CLIENT_SLOTS, GAUGES, ROWS, Block, Part

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS_HERE = 20
WIDTH = RequestCounters.WIDTH
VIEWS = {
    "loads": ROWS_HERE,
    "queued": ROWS_HERE,
    "waiting": ROWS_HERE,
    "counters": ROWS_HERE * WIDTH,
    "clients": CLIENT_SLOTS,
    "requests": CLIENT_SLOTS,
    "gauges": GAUGES,
}


@pytest.fixture
def block() -> Iterator[Block]:
    block = Block.create(3, ROWS_HERE)
    yield block
    block.close()


def taken(block: Block) -> int:
    """Bytes of memory behind it."""
    return os.fstat(block.fd).st_blocks * 512


def test_every_cell_is_one_of_its_own(block: Block):
    number = 0
    for part in block.parts:
        for name in VIEWS:
            view = getattr(part, name)
            for place in range(len(view)):
                view[place] = number = number + 1
    number = 0
    for part in block.parts:
        for name in VIEWS:
            view = getattr(part, name)
            assert view.tolist() == list(range(number + 1, number + len(view) + 1))
            number += len(view)


def test_each_view_has_its_cells_of_8_bytes_in_a_part_of_whole_pages(block: Block):
    part = block.parts[0]
    assert {name: len(getattr(part, name)) for name in VIEWS} == VIEWS
    assert {getattr(part, name).itemsize for name in VIEWS} == {8}
    assert Part.size(ROWS_HERE) % mmap.PAGESIZE == 0
    assert Part.size(ROWS_HERE) >= 8 * sum(VIEWS.values())
    assert len(block.parts) == 3


def test_raw_loads_are_the_loads(block: Block):
    part = block.parts[1]
    part.loads[2] = -7
    assert bytes(part.raw_loads[16:24]) == (-7).to_bytes(8, "little", signed=True)


def test_two_maps_of_it_see_each_other(block: Block):
    other = Block(os.dup(block.fd), ROWS_HERE)
    block.parts[2].loads[5] = 3
    other.parts[0].waiting[1] = 1.5
    other.parts[1].write_counters(7, range(WIDTH))
    assert other.parts[2].loads[5] == 3
    assert block.parts[0].waiting[1] == 1.5
    assert list(block.parts[1].read_counters(7)) == list(range(WIDTH))
    other.close()
    assert block.parts[2].loads[5] == 3


def test_fewer_counters_than_a_row_has_leave_the_rest(block: Block):
    part = block.parts[0]
    part.write_counters(3, range(1, WIDTH + 1))
    part.write_counters(3, [9.0, 9.0])
    assert list(part.read_counters(3, 4)) == [9.0, 9.0, 3.0, 4.0]
    assert part.read_counters(3)[-1] == WIDTH


def fill(part: Part, row: int) -> None:
    part.loads[row], part.queued[row], part.waiting[row] = 1, 2, 3.0
    part.write_counters(row, [4.0] * WIDTH)


def test_a_row_that_is_cleared_is_cleared_alone(block: Block):
    part, other = block.parts[:2]
    for row in range(ROWS_HERE):
        fill(part, row)
    fill(other, 4)
    part.clear_row(4)
    assert [row for row in range(ROWS_HERE) if part.is_row_clear(row)] == [4]
    assert not other.is_row_clear(4)


@pytest.mark.parametrize("what", ["loads", "queued", "waiting", "counters"])
def test_a_row_with_anything_in_it_is_not_clear(block: Block, what: str):
    part = block.parts[0]
    place = 3 * WIDTH + WIDTH - 1 if what == "counters" else 3
    getattr(part, what)[place] = 1
    assert [row for row in range(ROWS_HERE) if not part.is_row_clear(row)] == [3]


def test_a_dead_workers_part_is_cleared_and_no_other(block: Block):
    for part in block.parts:
        for name in VIEWS:
            view = getattr(part, name)
            view[0] = view[len(view) - 1] = 1
    block.clear(1)
    for name in VIEWS:
        ends = [(getattr(part, name)[0], getattr(part, name)[-1]) for part in block.parts]
        assert ends == [(1, 1), (0, 0), (1, 1)], name


def test_what_nobody_uses_takes_no_memory_and_what_is_cleared_gives_it_back():
    block = Block.create(4, ROWS)
    fill(block.parts[1], 0)
    used = taken(block)
    assert used < 64 * 1024
    block.clear(0)
    assert taken(block) == used
    block.clear(1)
    assert taken(block) == 0
    block.close()


def test_a_closed_block_leaves_no_descriptor_open():
    before = os.listdir("/proc/self/fd")
    Block.create(2, ROWS_HERE).close()
    assert os.listdir("/proc/self/fd") == before
