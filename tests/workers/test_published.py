"""A worker's numbers in its part of the shared memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.backends import FrontendCounters, RequestCounters
from hermes_lb.config import load_config
from hermes_lb.observe.observed import ProcessView
from hermes_lb.plane import DataPlane
from hermes_lb.workers.block import Block
from hermes_lb.workers.published import Publisher, frontend_row
from tests.support.pools import FakeWaiter, make_pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.workers.block import Part

ROWS = {"test": 0, "test/a 10.0.0.1:80": 1, "test/b 10.0.0.2:80": 2, "frontend public": 3}


@pytest.fixture
def part() -> Iterator[Part]:
    block = Block.create(1, rows=10)
    yield block.parts[0]
    block.close()


class FakePlane:
    """What a publisher looks at."""

    def __init__(self) -> None:
        self.pools = {"test": make_pool({"max_connections": 1}, {})}
        self.counters = {"public": FrontendCounters()}
        self.process = ProcessView(0, 4711)
        self.looks = 0

    def look_inside(self) -> None:
        self.looks += 1
        self.process.clients = 5


def publisher(plane: Any, part: Part, *, is_alone: bool = False) -> Publisher:
    made = Publisher(plane, part, is_alone=is_alone)
    made.set_rows(ROWS)
    return made


def loaded(part: Part, row: int) -> RequestCounters:
    counters = RequestCounters()
    counters.load(part.read_counters(row))
    return counters


def test_what_is_counted_is_in_the_rows_after_a_copy(part: Part):
    plane = FakePlane()
    pool = plane.pools["test"]
    pool.unserved.responses[5] = 1
    pool.servers[0].counters.bytes_in = 10
    pool.servers[1].counters.at_once.observe(0.5)
    plane.counters["public"].requests = 7
    made = publisher(plane, part)
    assert not any(part.counters)
    made.publish()
    assert loaded(part, 0).responses[5] == 1
    assert loaded(part, 1).bytes_in == 10
    assert loaded(part, 2).duration.count == 1
    assert loaded(part, 2).at_once.total == 0.5
    frontend = FrontendCounters()
    frontend.load(part.read_counters(3, FrontendCounters.WIDTH))
    assert frontend.requests == 7


def test_only_what_has_changed_is_written(part: Part):
    plane = FakePlane()
    made = publisher(plane, part)
    made.publish()
    for row in (1, 2):
        part.write_counters(row, [99.0])  # so that one can see who is written
    plane.pools["test"].servers[1].counters.bytes_in = 1
    made.publish()
    assert [part.read_counters(row, 1)[0] for row in (1, 2)] == [99.0, 1.0]


def test_who_waits_is_counted_by_server_and_in_all(part: Part):
    plane = FakePlane()
    pool = plane.pools["test"]
    pool.wait(FakeWaiter(pinned_to=pool.servers[0]))
    pool.wait(FakeWaiter())
    publisher(plane, part).publish()
    assert part.queued.tolist()[:3] == [2, 1, 0]


@pytest.mark.parametrize("is_alone", [True, False])
def test_loads_go_along_where_nobody_else_writes_them(part: Part, is_alone: bool):
    plane = FakePlane()
    pool = plane.pools["test"]
    pool.lease(pool.servers[1], 0.0)
    publisher(plane, part, is_alone=is_alone).publish()
    assert part.loads.tolist()[:3] == [0, 0, int(is_alone)]


def test_the_process_is_in_the_gauges(part: Part):
    plane = FakePlane()
    publisher(plane, part).publish()
    view = ProcessView(1, 1)
    view.load(part.gauges[: ProcessView.WIDTH].tolist())
    assert (view.pid, view.clients) == (4711, 5)
    assert plane.looks == 1


async def test_a_plane_that_ends_meanwhile_is_still_copied(part: Part) -> None:
    """Its log may take a while to close, if nobody reads it."""
    servers = [{"name": "a", "address": "10.0.0.1:80"}, {"name": "b", "address": "10.0.0.2:80"}]
    config = load_config(
        {
            "log": {"access": "off"},
            "admin": {"enabled": False},
            "frontends": [{"name": "public", "bind": "127.0.0.1:0", "default_backend": "test"}],
            "backends": {"test": {"servers": servers}},
        }
    )
    plane = DataPlane(config)
    await plane.open()
    made = publisher(plane, part)
    made.publish()
    await plane.stop()
    plane.counters["public"].requests = 7
    made.publish()
    frontend = FrontendCounters()
    frontend.load(part.read_counters(3, FrontendCounters.WIDTH))
    assert frontend.requests == 7


@pytest.mark.parametrize("is_alone", [True, False])
def test_what_is_gone_leaves_nothing_and_what_stays_goes_on(part: Part, is_alone: bool):
    plane = FakePlane()
    made = publisher(plane, part, is_alone=is_alone)
    pool = plane.pools["test"]
    for server in pool.servers:
        server.counters.bytes_in = 10
        pool.lease(server, 0.0)
    made.publish()
    del pool.servers[0]
    made.set_rows({key: row for key, row in ROWS.items() if row != 1})
    assert part.is_row_clear(1)
    assert loaded(part, 2).bytes_in == 10
    made.publish()
    assert part.is_row_clear(1)


def test_a_frontend_that_is_about_to_be_gone_has_no_row_and_is_not_copied(part: Part):
    plane = FakePlane()
    made = publisher(plane, part)
    plane.counters["public"].requests = 7
    rows = {key: row for key, row in ROWS.items() if key != "frontend public"}
    made.set_rows(rows)
    made.publish()
    assert not any(part.read_counters(3))


def test_a_row_starts_at_zero_for_who_gets_it(part: Part):
    plane = FakePlane()
    made = publisher(plane, part)
    made.publish()
    part.write_counters(4, [1.0])
    part.loads[4] = 1
    plane.counters["new"] = FrontendCounters()
    made.set_rows({**ROWS, frontend_row("new"): 4})
    assert part.is_row_clear(4)
    plane.counters["new"].requests = 1
    made.publish()
    assert not part.is_row_clear(4)


def test_a_row_that_changes_hands_has_nothing_of_the_one_before(part: Part):
    plane = FakePlane()
    made = publisher(plane, part)
    for server in plane.pools["test"].servers:
        server.counters.bytes_in = 10
    made.publish()
    made.set_rows({**ROWS, "test/a 10.0.0.1:80": 2, "test/b 10.0.0.2:80": 1})
    assert part.is_row_clear(1)
    assert part.is_row_clear(2)
    plane.pools["test"].servers[0].counters.bytes_in = 11
    made.publish()
    assert [loaded(part, row).bytes_in for row in (1, 2)] == [10, 11]
