"""A server with queued requests goes out: which server do they wait for, and in which place?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hermes_lb.config import Backend
from tests.support.pools import FakeWaiter, make_pool, nobody_else

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.backends import Lease, Pool, Server


def full(count: int, **more: object) -> tuple[Pool, list[Lease]]:
    """A pool whose servers take one request each, and have it."""
    pool = make_pool(*[{"max_connections": 1, **more}] * count)
    return pool, [pool.lease(server, 0.0) for server in pool.servers]


def queued(pool: Pool) -> list[int]:
    return [server.queued for server in pool.servers]


def out_by_checks(pool: Pool) -> None:
    pool.servers[0].set_up(False, "for a test")


def out_by_maintenance(pool: Pool) -> None:
    pool.servers[0].set_admin("maint")


def out_by_ejection(pool: Pool) -> None:
    pool.servers[0].eject(30.0, "for a test")


def out_by_failures(pool: Pool) -> None:
    pool.servers[0].failed(0.0)


def out_of_the_configuration(pool: Pool) -> None:
    others = [server.config for server in pool.servers[1:]]
    pool.reconfigure(Backend(servers=others))
    pool.look_at_queue()


every_way = pytest.mark.parametrize(
    "goes_out",
    [
        out_by_checks,
        out_by_maintenance,
        out_by_ejection,
        out_by_failures,
        out_of_the_configuration,
    ],
)


@every_way
def test_who_has_an_heir_waits_for_that_one_and_for_no_other(goes_out: Callable[[Pool], None]):
    pool, [_, b, c] = full(3, max_fails=1)
    waiter, other = FakeWaiter(pool.servers[0], heir=lambda: c.server), FakeWaiter()
    pool.wait(waiter)
    pool.wait(other)
    goes_out(pool)
    assert (waiter.pinned_to, b.server.queued, c.server.queued) == (c.server, 0, 1)
    b.release()
    assert (waiter.server, other.server) == (None, "b")
    c.release()
    assert (waiter.server, c.server.queued) == ("c", 0)


@every_way
def test_whom_nobody_else_may_serve_is_refused_at_once(goes_out: Callable[[Pool], None]):
    pool, [_, b] = full(2, max_fails=1)
    first = FakeWaiter()
    strict = [FakeWaiter(pool.servers[0], pool=pool, heir=nobody_else) for _ in range(3)]
    kept = FakeWaiter(b.server, heir=nobody_else)
    for waiter in (strict[0], first, strict[1], kept, strict[2]):
        pool.wait(waiter)
    lost = pool.servers[0]
    goes_out(pool)
    assert [waiter.refused for waiter in strict] == [1, 1, 1]
    assert list(pool.waiting) == [first, kept]
    assert (lost.queued, b.server.queued) == (0, 1)
    b.release()
    assert (first.server, kept.server) == ("b", None)
    assert [waiter.server for waiter in strict] == [None] * 3


def test_an_heir_that_has_room_serves_at_once():
    pool = make_pool({"max_connections": 1}, {})
    a, b = pool.servers
    pool.lease(a, 0.0)
    waiter = FakeWaiter(a, heir=lambda: b)
    pool.wait(waiter)
    a.set_up(False, "for a test")
    assert (waiter.server, queued(pool)) == ("b", [0, 0])


def test_all_keep_their_places_by_arrival_wherever_they_wait_now():
    pool, [a, b] = full(2)
    waiters = [
        FakeWaiter(a.server, heir=lambda: b.server),
        FakeWaiter(b.server),
        FakeWaiter(a.server),
        FakeWaiter(),
        FakeWaiter(a.server, heir=lambda: b.server),
    ]
    for waiter in waiters:
        pool.wait(waiter)
    a.server.set_up(False, "for a test")
    assert list(pool.waiting) == waiters
    lease = b
    for waiter in waiters:
        lease.release()
        assert waiter.server == "b"
        [lease] = waiter.leases


def test_who_stays_with_a_lost_server_is_asked_again_whenever_something_changes():
    pool, [a, b, c] = full(3)
    heirs: list[Server] = []
    waiter = FakeWaiter(a.server, heir=lambda: heirs[0] if heirs else a.server)
    pool.wait(waiter)
    for lease in (a, b, c):
        lease.server.set_up(False, "for a test")
    b.release()
    assert (waiter.pinned_to, queued(pool)) == (a.server, [1, 0, 0])
    heirs.append(c.server)
    c.server.set_up(True, "for a test")
    assert (waiter.pinned_to, queued(pool)) == (c.server, [0, 0, 1])
    b.server.set_up(True, "for a test")
    assert waiter.server is None
    c.release()
    assert waiter.server == "c"


def test_strategies_hear_of_the_load_that_has_moved():
    pool, [a, b, _] = full(3)
    pool.wait(FakeWaiter(a.server, heir=lambda: b.server))
    touched: set[Server] = set()
    pool.touched = touched
    a.server.set_up(False, "for a test")
    assert touched == {a.server, b.server}


def test_what_happens_in_a_refusal_may_refuse_and_serve_others():
    """The first one's end takes the second's along, and makes room for the third."""
    pool, [a, b] = full(2)

    class Ends(FakeWaiter):
        def fail(self, error):
            super().fail(error)
            a.server.set_weight(7)  # whatever makes the pool look at its queue again
            b.release()

    first = Ends(a.server, pool=pool, heir=nobody_else)
    second = FakeWaiter(a.server, pool=pool, heir=nobody_else)
    third = FakeWaiter(a.server)
    for waiter in (first, second, third):
        pool.wait(waiter)
    a.server.set_up(False, "for a test")
    assert (first.refused, second.refused, third.refused) == (1, 1, 0)
    assert third.server == "b"
    assert not pool.waiting
    assert queued(pool) == [0, 0]
