"""A worker's counters in its region of the shared memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.backends import FrontendCounters, RequestCounters
from hermes_lb.config import load_config
from hermes_lb.observe.observed import ProcessView
from hermes_lb.plane import DataPlane
from hermes_lb.workers import published
from hermes_lb.workers.layout import frontend_row, server_row
from hermes_lb.workers.published import Publisher
from hermes_lb.workers.shared_memory import SharedMemory
from tests.support.pools import FakeWaiter, make_pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.workers.shared_memory import Region

ROWS = {"test": 0, "test/a 10.0.0.1:80": 1, "test/b 10.0.0.2:80": 2, "frontend public": 3}


@pytest.fixture
def region() -> Iterator[Region]:
    memory = SharedMemory.create(1, rows=10)
    yield memory.regions[0]
    memory.close()


class FakePlane:
    """A data path as a publisher sees it."""

    def __init__(self) -> None:
        self.pools = {"test": make_pool({"max_connections": 1}, {})}
        self.counters = {"public": FrontendCounters()}
        self.process = ProcessView(0, 4711)
        self.looks = 0

    def look_inside(self) -> None:
        self.looks += 1
        self.process.clients = 5


def publisher(plane: Any, region: Region, *, is_alone: bool = False) -> Publisher:
    made = Publisher(plane, region, is_alone=is_alone)
    made.set_rows(ROWS)
    return made


def loaded(region: Region, row: int) -> RequestCounters:
    counters = RequestCounters()
    counters.load(region.read_counters(row))
    return counters


def test_what_is_counted_is_in_the_rows_after_a_copy(region: Region):
    plane = FakePlane()
    pool = plane.pools["test"]
    pool.unserved.responses[5] = 1
    pool.servers[0].counters.bytes_in = 10
    pool.servers[1].counters.responses[2] = 1
    pool.servers[1].counters.at_once.observe(0.5)
    plane.counters["public"].requests = 7
    made = publisher(plane, region)
    assert not any(region.counters)
    made.publish()
    assert loaded(region, 0).responses[5] == 1
    assert loaded(region, 1).bytes_in == 10
    assert loaded(region, 2).duration.count == 1
    assert loaded(region, 2).at_once.total == 0.5
    frontend = FrontendCounters()
    frontend.load(region.read_counters(3, FrontendCounters.WIDTH))
    assert frontend.requests == 7


def test_only_the_histograms_that_have_changed_are_written(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = FakePlane()
    counters = plane.pools["test"].servers[0].counters
    made = publisher(plane, region)
    counters.responses[2] = 1
    made.publish()  # all, for the first time
    written: list[tuple[int, int]] = []
    write = region.write_cells
    monkeypatch.setattr(
        region, "write_cells",
        lambda row, first, cells: (written.append((row, first)), write(row, first, cells)),
    )  # fmt: skip
    counters.responses[2] += 1
    counters.latency.observe(0.5)
    made.publish()
    places = dict(RequestCounters.BULK)
    assert written == [(1, places["latency"]), (1, 0)], "the cells that tell of it come last"
    assert loaded(region, 1).cells() == counters.cells()
    counters.latency.move(0.5, 2.0)  # as many as before
    counters.late += 1
    made.publish()
    assert loaded(region, 1).cells() == counters.cells()


def test_only_what_has_changed_is_written(region: Region):
    plane = FakePlane()
    made = publisher(plane, region)
    made.publish()
    for row in (1, 2):
        region.write_counters(row, [99.0])  # so that writes can be seen
    plane.pools["test"].servers[1].counters.bytes_in = 1
    made.publish()
    assert [region.read_counters(row, 1)[0] for row in (1, 2)] == [99.0, 1.0]


def test_who_waits_is_counted_by_server_and_in_all(region: Region):
    plane = FakePlane()
    pool = plane.pools["test"]
    pool.wait(FakeWaiter(pinned_to=pool.servers[0]))
    pool.wait(FakeWaiter())
    publisher(plane, region).publish()
    assert region.queued.tolist()[:3] == [2, 1, 0]


@pytest.mark.parametrize("is_alone", [True, False])
def test_loads_go_along_where_nobody_else_writes_them(region: Region, is_alone: bool):
    plane = FakePlane()
    pool = plane.pools["test"]
    pool.lease(pool.servers[1], 0.0)
    publisher(plane, region, is_alone=is_alone).publish()
    assert region.loads.tolist()[:3] == [0, 0, int(is_alone)]


def test_the_process_is_in_the_gauges(region: Region):
    plane = FakePlane()
    publisher(plane, region).publish()
    view = ProcessView(1, 1)
    view.load(region.gauges[: ProcessView.WIDTH].tolist())
    assert (view.pid, view.clients) == (4711, 5)
    assert plane.looks == 1


async def test_a_plane_that_ends_meanwhile_is_still_copied(region: Region) -> None:
    """Its log may take a while to close, if its reader stalls."""
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
    made = publisher(plane, region)
    made.publish()
    await plane.stop()
    plane.counters["public"].requests = 7
    made.publish()
    frontend = FrontendCounters()
    frontend.load(region.read_counters(3, FrontendCounters.WIDTH))
    assert frontend.requests == 7


@pytest.mark.parametrize("is_alone", [True, False])
def test_what_is_gone_leaves_nothing_and_what_stays_goes_on(region: Region, is_alone: bool):
    plane = FakePlane()
    made = publisher(plane, region, is_alone=is_alone)
    pool = plane.pools["test"]
    for server in pool.servers:
        server.counters.bytes_in = 10
        pool.lease(server, 0.0)
    made.publish()
    del pool.servers[0]
    made.set_rows({key: row for key, row in ROWS.items() if row != 1})
    assert region.is_row_clear(1)
    assert loaded(region, 2).bytes_in == 10
    made.publish()
    assert region.is_row_clear(1)


def test_a_frontend_that_is_about_to_be_gone_has_no_row_and_is_not_copied(region: Region):
    plane = FakePlane()
    made = publisher(plane, region)
    plane.counters["public"].requests = 7
    rows = {key: row for key, row in ROWS.items() if key != "frontend public"}
    made.set_rows(rows)
    made.publish()
    assert not any(region.read_counters(3))


def test_a_row_starts_at_zero_for_who_gets_it(region: Region):
    plane = FakePlane()
    made = publisher(plane, region)
    made.publish()
    region.write_counters(4, [1.0])
    region.loads[4] = 1
    plane.counters["new"] = FrontendCounters()
    made.set_rows({**ROWS, frontend_row("new"): 4})
    assert region.is_row_clear(4)
    plane.counters["new"].requests = 1
    made.publish()
    assert not region.is_row_clear(4)


def test_a_row_that_changes_hands_has_nothing_of_the_one_before(region: Region):
    plane = FakePlane()
    made = publisher(plane, region)
    for server in plane.pools["test"].servers:
        server.counters.bytes_in = 10
    made.publish()
    made.set_rows({**ROWS, "test/a 10.0.0.1:80": 2, "test/b 10.0.0.2:80": 1})
    assert region.is_row_clear(1)
    assert region.is_row_clear(2)
    plane.pools["test"].servers[0].counters.bytes_in = 11
    made.publish()
    assert [loaded(region, row).bytes_in for row in (1, 2)] == [10, 11]


@pytest.mark.parametrize("is_alone", [True, False])
@pytest.mark.parametrize("of", ["another backend", "another server"])
def test_a_row_that_changes_hands_between_two_parts_has_nothing_of_the_one_before(
    region: Region, monkeypatch: pytest.MonkeyPatch, is_alone: bool, of: str
):
    monkeypatch.setattr(published, "_AT_ONCE", 1)
    plane = FakePlane()
    old = plane.pools["test"]
    for server in old.servers:
        server.counters.bytes_in = 10
        old.lease(server, 0.0)
    made = publisher(plane, region, is_alone=is_alone)
    made.publish()  # their rows are known
    parts = made.publish_in_parts()
    next(parts)
    for server in old.servers:
        server.counters.bytes_in = 11
    if of == "another backend":
        plane.pools["test"] = make_pool({"max_connections": 1}, {})
        made.set_rows({})
        made.set_rows(ROWS)
    else:
        [_, old.servers[1]] = make_pool({}, {}).servers
        made.change_rows({}, ["test/b 10.0.0.2:80"])
        made.change_rows({"test/b 10.0.0.2:80": 2}, [])
    for _ in parts:
        pass
    assert region.is_row_clear(2)


def test_others_run_between_the_parts(region: Region, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(published, "_AT_ONCE", 3)
    plane = FakePlane()
    plane.pools["test"] = pool = make_pool(*[{}] * 7)
    rows = {server_row("test", server): row for row, server in enumerate(pool.servers, 3)}
    made = Publisher(plane, region, is_alone=False)
    made.set_rows({"test": 0, **rows})
    for server in pool.servers:
        server.counters.bytes_in = 1

    def written() -> int:
        return sum(not region.is_row_clear(row) for row in rows.values())

    assert [written() for _ in made.publish_in_parts()] == [3, 6]
    assert not any(region.is_row_clear(row) for row in rows.values())
