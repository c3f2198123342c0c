"""Available servers, leases, and the queue."""

from __future__ import annotations

import pytest

from tests.support.pools import FakeWaiter, make_pool, names

WINDOW = 10.0


def full_pool(servers: int = 1, **more: object) -> tuple:
    """A pool whose servers take one request each, and have it."""
    pool = make_pool(*[{"max_connections": 1, "fail_timeout": WINDOW, **more}] * servers)
    return pool, [pool.lease(server, 0.0) for server in pool.servers]


class TestCandidates:
    def test_all(self):
        assert names(make_pool({}, {}, {}).candidates((), 0.0)) == "a b c"

    def test_not_those_tried(self):
        pool = make_pool({}, {}, {})
        assert names(pool.candidates([pool.servers[1]], 0.0)) == "a c"

    def test_not_those_down_failed_or_full(self):
        pool = make_pool({"down": True}, {"max_fails": 1}, {"max_connections": 1}, {})
        pool.servers[1].failed(now=0.0)
        pool.lease(pool.servers[2], 0.0)
        assert names(pool.candidates((), 0.0)) == "d"

    def test_a_first_failure_is_seen_where_nothing_had_failed(self):
        pool = make_pool({"max_fails": 1}, {})
        assert names(pool.candidates((), 0.0)) == "a b"
        pool.servers[0].failed(now=0.0)
        assert names(pool.candidates((), 0.0)) == "b"

    @pytest.mark.parametrize("lost", ["down", "failed", "full", "tried"])
    def test_backups_only_when_no_primary_is_left(self, lost: str):
        pool = make_pool({"max_fails": 1, "max_connections": 1}, {"backup": True})
        primary, backup = pool.servers
        assert pool.candidates((), 0.0) == [primary]
        tried = []
        match lost:
            case "down":
                primary.set_up(False, "")
            case "failed":
                primary.failed(now=0.0)
            case "full":
                pool.lease(primary, 0.0)
            case "tried":
                tried = [primary]
        assert pool.candidates(tried, 0.0) == [backup]

    def test_all_out(self):
        pool = make_pool({}, {}, {"backup": True})
        for server in pool.servers:
            server.set_up(False, "")
        assert pool.candidates((), 0.0) == []
        assert not pool.can_wait(())

    def test_waiting_helps_only_where_a_server_is_merely_full(self):
        pool, _ = full_pool(2)
        assert pool.candidates((), 0.0) == []
        assert pool.can_wait(())
        assert pool.can_wait([pool.servers[0]])
        assert not pool.can_wait(pool.servers)


class TestLease:
    def test_counts_until_released(self):
        pool = make_pool({})
        server = pool.servers[0]
        first, second = pool.lease(server, 0.0), pool.lease(server, 0.0)
        assert server.in_flight == 2
        assert repr(first) == "<Lease on a, held>"
        first.release()
        assert server.in_flight == 1
        assert repr(first) == "<Lease on a, released>"
        second.release()
        assert server.in_flight == 0

    def test_a_second_release_is_refused_and_changes_nothing(self):
        pool, [lease] = full_pool()
        first, second = FakeWaiter(), FakeWaiter()
        pool.wait(first)
        pool.wait(second)
        lease.release()
        with pytest.raises(RuntimeError, match="released twice"):
            lease.release()
        assert pool.servers[0].in_flight == 1
        assert (first.server, second.server) == ("a", None)


class TestQueue:
    def test_first_come_first_served(self):
        pool, [lease] = full_pool()
        waiters = [FakeWaiter() for _ in range(4)]
        for waiter in waiters:
            pool.wait(waiter)
        served = []
        for waiter in waiters:
            lease.release()
            served.append([w.server for w in waiters])
            lease = waiter.leases[0]
        assert served == [
            ["a", None, None, None],
            ["a", "a", None, None],
            ["a", "a", "a", None],
            ["a", "a", "a", "a"],
        ]

    def test_a_pinned_one_waits_for_its_server_only(self):
        pool, [a, b] = full_pool(2)
        pinned, free = FakeWaiter(b.server), FakeWaiter()
        pool.wait(pinned)
        pool.wait(free)
        assert [s.queued for s in pool.servers] == [0, 1]
        a.release()
        assert (pinned.server, free.server) == (None, "a")
        b.release()
        assert pinned.server == "b"
        assert [s.queued for s in pool.servers] == [0, 0]

    def test_pinned_and_free_take_turns_by_arrival(self):
        pool, [lease] = full_pool()
        free, pinned = FakeWaiter(), FakeWaiter(lease.server)
        pool.wait(free)
        pool.wait(pinned)
        lease.release()
        assert (free.server, pinned.server) == ("a", None)

    def test_no_server_that_it_has_already_failed_on(self):
        pool, [a, b] = full_pool(2)
        waiter, other = FakeWaiter(tried=[a.server]), FakeWaiter()
        pool.wait(waiter)
        pool.wait(other)
        a.release()
        assert (waiter.server, other.server) == (None, "a")
        b.release()
        assert waiter.server == "b"

    def test_who_leaves_is_not_served(self):
        pool, [lease] = full_pool()
        gone, pinned, next_one = FakeWaiter(), FakeWaiter(lease.server), FakeWaiter()
        for waiter in (gone, pinned, next_one):
            pool.wait(waiter)
        pool.leave(gone)
        pool.leave(pinned)
        assert lease.server.queued == 0
        lease.release()
        assert (gone.server, pinned.server, next_one.server) == (None, None, "a")
        assert not pool.waiting

    def test_a_grant_that_is_released_at_once_goes_to_the_next(self):
        class Hasty(FakeWaiter):
            def lease_granted(self, lease):
                super().lease_granted(lease)
                lease.release()

        pool, [lease] = full_pool()
        waiters = [Hasty(), Hasty(), FakeWaiter()]
        for waiter in waiters:
            pool.wait(waiter)
        lease.release()
        assert [w.server for w in waiters] == ["a", "a", "a"]
        assert lease.server.in_flight == 1

    def test_a_released_server_that_is_down_gets_nobody(self):
        pool, [lease, _] = full_pool(2)
        waiter = FakeWaiter()
        pool.wait(waiter)
        lease.server.set_up(False, "")
        lease.release()
        assert waiter.server is None


class TestWakeUps:
    """Room appears in more ways than by a release."""

    def test_a_server_comes_up(self):
        pool, _ = full_pool(2)
        pool.servers[1].set_up(False, "")
        pool.servers[1].in_flight = 0
        waiters = [FakeWaiter(), FakeWaiter()]
        for waiter in waiters:
            pool.wait(waiter)
        pool.servers[1].set_up(True, "")
        assert [w.server for w in waiters] == ["b", None]

    def test_a_server_comes_up_with_room_for_several(self):
        pool, _ = full_pool(2, max_connections=2)
        pool.lease(pool.servers[0], 0.0)
        pool.servers[1].set_up(False, "")
        pool.servers[1].in_flight = 0
        waiters = [FakeWaiter() for _ in range(3)]
        for waiter in waiters:
            pool.wait(waiter)
        pool.servers[1].set_up(True, "")
        assert [w.server for w in waiters] == ["b", "b", None]

    def test_a_failed_server_is_not_given_on_release(self):
        pool, [lease, _] = full_pool(2, max_fails=1)
        waiter = FakeWaiter()
        pool.wait(waiter)
        lease.server.failed(now=0.0)
        lease.release()
        assert waiter.server is None

    def test_after_its_window_one_waiter_is_the_probe(self):
        pool, [lease, _] = full_pool(2, max_fails=1, max_connections=5)
        pool.servers[1].in_flight = 5
        lease.server.failed(now=0.0)
        lease.release()
        waiters = [FakeWaiter(), FakeWaiter(), FakeWaiter()]
        for waiter in waiters:
            pool.wait(waiter)
        pool.tick(WINDOW)
        assert [w.server for w in waiters] == [None, None, None]
        pool.tick(WINDOW + 1)
        assert [w.server for w in waiters] == ["a", None, None]
        lease.server.succeeded()  # the probe went well: there is room for all
        assert [w.server for w in waiters] == ["a", "a", "a"]

    def test_who_is_pinned_to_a_server_that_goes_down_may_go_elsewhere(self):
        pool, [a, b] = full_pool(2)
        pinned, later = FakeWaiter(a.server), FakeWaiter()
        pool.wait(pinned)
        pool.wait(later)
        a.server.set_up(False, "")
        assert (pinned.pinned_to, a.server.queued) == (None, 0)
        b.release()
        assert (pinned.server, later.server) == ("b", None)  # it kept its place

    def test_who_is_pinned_to_a_server_that_fails_may_go_elsewhere(self):
        pool, [a, b] = full_pool(2, max_fails=3)
        pinned = FakeWaiter(a.server)
        pool.wait(pinned)
        a.server.failed(now=0.0)
        a.server.failed(now=0.0)
        assert pinned.pinned_to is a.server
        a.server.failed(now=0.0)
        assert pinned.pinned_to is None
        b.release()
        assert pinned.server == "b"


def test_repr_tells_the_state():
    pool, [lease] = full_pool()
    pool.wait(FakeWaiter(lease.server))
    assert repr(pool) == (
        "<Pool test: [<Server a 10.0.0.1:80 up, weight 1, 1 in flight, 1 queued, 0 fails>],"
        " 1 waiting>"
    )


# Weights at run time.


def test_a_weight_of_nought_takes_no_new_requests():
    """As in HAProxy: it is drained. Those pinned to it are another matter, they still come."""
    pool = make_pool({}, {})
    pool.servers[0].set_weight(0)
    assert names(pool.candidates((), 0.0)) == "b"
    assert not pool.can_wait(pool.servers[1:])
    assert pool.servers[0].may_serve(0.0)


def test_who_waits_is_not_given_a_drained_server_but_its_pinned_one_is():
    pool = make_pool({"max_connections": 1}, {"max_connections": 1})
    leases = [pool.lease(server, 0.0) for server in pool.servers]
    anyone, pinned = FakeWaiter(), FakeWaiter(pool.servers[0])
    pool.wait(anyone)
    pool.wait(pinned)
    pool.servers[0].set_weight(0)
    leases[0].release()
    assert (anyone.server, pinned.server) == (None, "a")
    leases[1].release()
    assert anyone.server == "b"


def test_a_new_weight_lets_those_in_that_waited():
    pool = make_pool({}, {"max_connections": 1})
    pool.servers[0].set_weight(0)
    pool.lease(pool.servers[1], 0.0)
    waiter = FakeWaiter()
    pool.wait(waiter)
    pool.servers[0].set_weight(2)
    assert waiter.server == "a"


def test_what_strategies_build_on_is_new_only_when_it_has_changed():
    pool = make_pool({}, {"max_fails": 1}, {})
    up, weights = pool.up, pool.weights
    pool.servers[1].failed(0.0)
    assert pool.up is up
    assert not pool.is_steady
    pool.servers[0].set_up(False, "")
    assert names(pool.up) == "b c"
    assert pool.weights is weights
    up = pool.up
    pool.servers[1].set_weight(3)
    assert pool.weights == (1, 3, 1)
    assert pool.up is not up
    assert not pool.weights_are_equal


def test_when_many_servers_change_what_follows_is_found_out_once():
    pool = make_pool({}, {}, {})
    waiter = FakeWaiter()
    for server in pool.servers:
        server.set_up(False, "")
    pool.wait(waiter)
    version = pool.version
    with pool.many_changing():
        for server in pool.servers:
            server.set_up(True, "")
        assert (pool.version, waiter.server) == (version, None)
    assert (pool.version, names(pool.up), waiter.server) == (version + 1, "a b c", "a")


def test_when_one_of_many_cannot_be_changed_the_others_are():
    pool = make_pool({}, {})

    def set_both(*admins):
        with pool.many_changing():
            for server, admin in zip(pool.servers, admins, strict=True):
                server.set_admin(admin)

    with pytest.raises(ValueError, match="can be set to"):
        set_both("drain", "nonsense")
    assert names(pool.up) == "b"
    pool.servers[0].set_admin("ready")
    assert names(pool.up) == "a b"


def test_a_new_weight_is_whole_at_once_and_turns_go_on():
    server = make_pool({"weight": 4, "max_fails": 2}, {}).servers[0]
    server.failed(0.0)
    server.current_weight = 3
    server.set_weight(6)
    assert (server.weight, server.effective_weight, server.current_weight) == (6, 6, 3)


@pytest.mark.parametrize("limit", [0, 1])
def test_can_take_is_up_not_failed_and_not_full(limit: int):
    pool = make_pool({"max_connections": limit, "max_fails": 1}, {})
    server = pool.servers[0]
    assert server.can_take(0.0)
    lease = pool.lease(server, 0.0)
    assert server.can_take(0.0) == (not limit)
    lease.release()
    server.failed(0.0)
    assert not server.can_take(0.0)
    assert server.can_take(1000.0)
    server.set_up(False, "")
    assert not server.can_take(1000.0)
