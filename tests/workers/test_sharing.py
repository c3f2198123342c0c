"""Workers that stop being alone, and are alone again."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.limits.per_client import ConnectionCounter, RateLimiter
from hermes_lb.workers.layout import Layout
from hermes_lb.workers.shared_memory import SharedMemory
from hermes_lb.workers.sharing import Sharing
from tests.support.pools import FakeWaiter, make_pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.backends import Lease, Server


class Plane:
    """A data path: a server that takes one request at a time, and clients with one connection."""

    def __init__(self) -> None:
        self.pool = make_pool({"max_connections": 1}, {})
        self.pools = {"test": self.pool}
        self.counters: dict[str, Any] = {}
        self.process = SimpleNamespace(cells=list)
        self.counts = ConnectionCounter(1)
        self.rates = RateLimiter(1.0, 2)  # per second, burst
        self.context = SimpleNamespace(
            client_limits=SimpleNamespace(connections=self.counts, share=self._share),
            batch=SimpleNamespace(before_requests=None),
        )

    def _share(self, connections: Any, requests: Any) -> None:
        self.counts.share(connections)
        self.rates.share(requests)

    def look_inside(self) -> None: ...


class Worker:
    def __init__(
        self, memory: SharedMemory, number: int, wakeups: list[int], rows: dict[str, int]
    ) -> None:
        self.plane = plane = Plane()
        self.pool = plane.pool
        self.region = memory.regions[number]
        made: Any = plane
        self.sharing = Sharing(made, memory, number, wakeups, b"key")
        self.sharing.set_rows(rows)

    @property
    def server(self) -> Server:
        return self.pool.servers[0]

    def claims(self) -> Lease | None:
        return self.pool.claim(self.server, 1.0)


@pytest.fixture
def two() -> Iterator[tuple[Worker, Worker]]:
    memory = SharedMemory.create(4, rows=10)
    wakeups = [os.eventfd(0, os.EFD_NONBLOCK) for _ in memory.regions]
    layout = Layout(memory)
    layout.assign({"test": Plane().pool}, ())
    yield Worker(memory, 0, wakeups, layout.rows), Worker(memory, 1, wakeups, layout.rows)
    for wakeup in wakeups:
        os.close(wakeup)


def test_who_is_alone_has_nobody_to_look_at(two: tuple[Worker, Worker]) -> None:
    one, _ = two
    assert one.sharing.is_alone
    assert one.pool.peers is None
    assert one.plane.context.batch.before_requests is None
    assert one.plane.counts.shared is None


async def test_what_is_held_when_another_comes_is_known_to_it(two: tuple[Worker, Worker]) -> None:
    old, new = two
    lease = old.claims()
    assert lease is not None
    for worker in two:
        worker.sharing.set_alone(False)
    assert new.server.in_flight == 1
    assert new.claims() is None
    lease.release()
    found = new.claims()
    assert found is not None
    assert old.claims() is None
    found.release()
    for worker in two:
        worker.sharing.set_alone(True)


async def test_who_waits_when_another_comes_has_its_place_in_the_queue(
    two: tuple[Worker, Worker],
) -> None:
    old, new = two
    lease = old.claims()
    assert lease is not None
    waiter, behind = (FakeWaiter(worker.server, pool=worker.pool) for worker in two)
    old.pool.wait(waiter)
    for worker in two:
        worker.sharing.set_alone(False)
    new.pool.wait(behind)
    row = old.sharing._rows["test/a 10.0.0.1:80"]
    assert 0.0 < old.region.waiting[row] < new.region.waiting[row]
    old.pool.leave(waiter)
    assert old.region.waiting[row] == 0.0
    new.pool.leave(behind)
    lease.release()
    for worker in two:
        worker.sharing.set_alone(True)


async def test_who_is_alone_again_has_its_own_leases_and_no_others(
    two: tuple[Worker, Worker],
) -> None:
    old, new = two
    assert old.claims() is not None
    new.sharing.set_alone(False)
    old.sharing.set_alone(False)
    new.pool.wait(waiter := FakeWaiter(new.server, pool=new.pool))
    second = new.pool.claim(new.pool.servers[1], 1.0)
    assert second is not None
    assert [server.in_flight for server in new.pool.servers] == [1, 1]
    assert new.pool.in_flight == 2
    row = new.sharing._rows["test/b 10.0.0.2:80"]
    new.sharing.set_alone(True)  # and the old one may be killed: nothing has looked since
    assert [server.in_flight for server in new.pool.servers] == [1, 1]  # the waiter has it
    assert new.pool.in_flight == 2
    assert new.region.loads[row] == 1
    assert not any(new.region.waiting)
    assert new.plane.context.batch.before_requests is None
    assert waiter.server == "a"
    waiter.leases[0].release()
    second.release()
    new.sharing.publisher.publish()
    assert not any(new.region.loads)
    old.sharing.set_alone(True)


async def test_who_is_alone_and_shares_again_and_again_counts_right(
    two: tuple[Worker, Worker],
) -> None:
    old, _ = two
    for _ in range(3):
        lease = old.claims()
        assert lease is not None
        for worker in two:
            worker.sharing.set_alone(False)
            worker.sharing.set_alone(False)
        assert [worker.server.in_flight for worker in two] == [1, 1]
        lease.release()
        for worker in two:
            worker.sharing.set_alone(True)
        assert [worker.server.in_flight for worker in two] == [0, 0]


async def test_connections_that_are_open_when_another_comes_count_in_both(
    two: tuple[Worker, Worker],
) -> None:
    old, new = two
    for _ in range(2):
        assert old.plane.counts.acquire("192.0.2.1")
        for worker in two:
            worker.sharing.set_alone(False)
        assert not new.plane.counts.acquire("192.0.2.1")
        old.sharing.set_alone(True)
        assert new.plane.counts.acquire("192.0.2.1")
        new.plane.counts.release("192.0.2.1")
        old.sharing.set_alone(False)
        assert not new.plane.counts.acquire("192.0.2.1")
        old.plane.counts.release("192.0.2.1")
        assert new.plane.counts.acquire("192.0.2.1")
        new.plane.counts.release("192.0.2.1")
        for worker in two:
            worker.sharing.set_alone(True)


async def test_what_clients_have_used_stays_used(two: tuple[Worker, Worker]) -> None:
    """While there are two, requests at one are missing at the other."""
    old, new = (worker.plane.rates for worker in two)
    assert not old.acquire("192.0.2.1", 100.0)
    for worker in two:
        worker.sharing.set_alone(False)
    assert not old.acquire("192.0.2.1", 100.0)
    assert old.acquire("192.0.2.1", 100.0)
    assert not old.acquire("192.0.2.1", 101.0)  # one more per second
    assert not new.acquire("192.0.2.1", 102.0)
    assert old.acquire("192.0.2.1", 102.0)
    for worker in two:
        worker.sharing.set_alone(True)
    assert old.acquire("192.0.2.1", 102.0)
    assert not old.acquire("192.0.2.1", 103.0)
