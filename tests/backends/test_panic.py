"""All servers out for passive failures: then these count for nothing (Envoy's panic threshold)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.pools import FakeWaiter, make_pool, names

if TYPE_CHECKING:
    from hermes_lb.backends import Pool, Server

WINDOW = 10.0
ONE = {"max_fails": 1, "fail_timeout": WINDOW}


def pool_of(*servers: dict[str, Any]) -> Pool:
    return make_pool(*({**ONE, **server} for server in servers))


def fail(pool: Pool, *servers: Server, now: float = 0.0) -> None:
    for server in servers or pool.servers:
        pool.failed(server, now, "connection refused")


def answer(pool: Pool, server: Server, now: float) -> None:
    """A request that is picked, answered and over."""
    lease = pool.lease(server, now)
    if server.fails:
        pool.answered(server)
    lease.release()


def test_when_all_are_out_all_are_candidates():
    pool = pool_of({}, {}, {})
    fail(pool)
    assert pool.in_panic
    assert names(pool.candidates((), 1.0)) == "a b c"
    assert all(server.may_serve(1.0) and server.can_take(1.0) for server in pool.servers)


def test_a_backup_that_can_serve_comes_first():
    pool = pool_of({}, {}, {"backup": True})
    a, b, c = pool.servers
    fail(pool, a, b)
    assert not pool.in_panic
    assert pool.candidates((), 1.0) == [c]
    fail(pool, c)
    assert names(pool.candidates((), 1.0)) == "a b"
    assert pool.candidates((a, b), 1.0) == [c]


def test_a_busy_server_comes_first():
    pool = pool_of({}, {})
    a, b = pool.servers
    a.set_degraded("timeout after 5s")
    fail(pool, b)
    assert not pool.in_panic
    assert pool.candidates((), 1.0) == [a]


@pytest.mark.parametrize("out", ["down", "maint", "drain", "ejected", "weight"])
def test_those_that_are_out_for_another_reason_stay_out(out: str):
    pool = pool_of({}, {})
    a, b = pool.servers
    fail(pool)
    match out:
        case "down":
            a.set_up(False, "connection refused")
        case "maint" | "drain":
            a.set_admin(out)
        case "ejected":
            a.eject(100.0, "for a test")
        case "weight":
            a.set_weight(0)
    assert pool.candidates((), 1.0) == [b]
    assert pool.in_panic


def test_when_the_last_other_goes_down_those_failing_serve():
    pool = pool_of({}, {}, {})
    a, b, c = pool.servers
    fail(pool, a, b)
    assert pool.candidates((), 1.0) == [c]
    c.set_up(False, "connection refused")
    assert names(pool.candidates((), 1.0)) == "a b"
    a.set_up(False, "")
    b.set_up(False, "")
    assert not pool.in_panic
    assert not pool.can_wait(())


def test_an_answer_ends_it_and_each_of_the_others_is_tried_by_one_request():
    pool = pool_of({}, {}, {})
    a, b, c = pool.servers
    fail(pool)
    answer(pool, a, 1.0)
    assert not pool.in_panic
    assert [a.state, b.state, c.state] == ["up", "failing", "failing"]
    assert names(pool.candidates((), 2.0)) == "a b c"
    pool.lease(b, 2.0)
    assert names(pool.candidates((), 2.0)) == "a c"
    answer(pool, c, 2.0)
    assert names(pool.candidates((), 3.0)) == "a c"
    pool.failed(b, 4.0, "connection refused")
    assert names(pool.candidates((), 4.0 + WINDOW)) == "a c"


def test_an_answer_to_a_request_of_before_its_failure_does_not_end_it():
    pool = pool_of({}, {})
    a = pool.servers[0]
    fail(pool, now=5.0)
    pool.answered(a)
    assert pool.in_panic
    assert a.is_failing


def test_time_alone_does_not_end_it():
    pool = pool_of({}, {})
    fail(pool)
    pool.tick(WINDOW * 5)
    assert pool.in_panic
    pool.lease(pool.servers[0], WINDOW * 5)
    assert names(pool.candidates((), WINDOW * 5)) == "a b"


def test_the_probe_of_the_only_one_left_leaves_others_to_ask():
    pool = pool_of({}, {})
    a, b = pool.servers
    later = WINDOW + 1
    fail(pool, a)
    fail(pool, b, now=later)
    assert pool.candidates((), later) == [a]
    pool.lease(a, later)
    assert names(pool.candidates((), later)) == "a b"


@pytest.mark.parametrize("began", [0.0, 5.0])
def test_a_check_that_began_before_the_failure_forgives_nothing(began: float):
    pool = pool_of({}, {})
    fail(pool, now=5.0)
    pool.check_passed(pool.servers[0], began)
    assert pool.servers[0].is_failing


def test_a_check_that_began_behind_the_last_failure_forgives_all():
    pool = pool_of({}, {})
    a, b = pool.servers
    told: list[tuple[Server, float | None]] = []
    pool.on_recovered = lambda server, began: told.append((server, began))
    fail(pool, a, now=5.0)
    pool.check_passed(a, 5.5)
    pool.check_passed(b, 5.5)
    assert a.state == "up"
    assert told == [(a, 5.5)]


def test_when_all_others_have_been_tried_those_failing_serve():
    pool = pool_of({}, {}, {"max_fails": 2})
    a, b, c = pool.servers
    fail(pool, a, b)
    assert not pool.in_panic
    assert names(pool.candidates((c,), 1.0)) == "a b"
    assert pool.can_wait((c,))
    answer(pool, a, 1.0)
    assert a.state == "up"
    assert not pool.can_wait((a, b, c))


def test_one_that_waits_gets_one_that_failed_if_nobody_else_can_serve_it():
    pool = pool_of({"max_connections": 1}, {"max_connections": 1}, {"max_connections": 1})
    a, b, c = pool.servers
    leases = [pool.lease(server, 0.0) for server in pool.servers]
    fail(pool, a, b)
    waiting, tried = FakeWaiter(), FakeWaiter(tried=(c,))
    pool.wait(waiting)
    pool.wait(tried)
    leases[0].release()
    assert (waiting.server, tried.server) == (None, "a")
    fail(pool, c)
    leases[1].release()
    assert waiting.server == "b"


def test_who_waits_is_served_when_a_panic_begins():
    pool = pool_of({}, {"max_connections": 1})
    a, b = pool.servers
    fail(pool, a)
    pool.lease(b, 0.0)
    waiter = FakeWaiter()
    pool.wait(waiter)
    fail(pool, b)
    assert waiter.server == "a"


def test_the_log_has_each_change_once_and_why(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "hermes_lb.health")
    pool = make_pool({"max_fails": 2, "fail_timeout": 30.0}, {"max_fails": 1})
    a, b = pool.servers
    fail(pool, a, a, a, b, now=5.0)
    pool.tick(20.0)
    pool.check_passed(b, 19.0)
    pool.tick(20.5)
    assert caplog.messages == [
        "test/a is FAILING, taken out for 30 s after 2 failures: connection refused; 1 server left",
        "all servers of test are failing: requests go to all of them as if none were",
        "test/b is FAILING, taken out for 30 s after 1 failure: connection refused; "
        "no servers left",
        "test: not all servers are failing any more",
        "test/b is back: its check is good",
    ]


def test_the_only_server_is_seen_to_fail_and_stays_in_use(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "hermes_lb.health")
    pool = pool_of({"max_fails": 2})
    a = pool.servers[0]
    fail(pool, a, a)
    assert (a.state, pool.in_panic) == ("failing", False)
    assert pool.candidates((), 0.0) == [a]
    pool.tick(2.0)
    answer(pool, a, 3.0)
    assert a.state == "up"
    assert caplog.messages == [
        "test/a is FAILING after 2 failures: connection refused; "
        "it is the only server and stays in use",
        "test/a is back: it has answered a request",
    ]


def test_the_log_is_not_flooded_by_one_that_comes_and_goes(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "hermes_lb.health")
    pool = pool_of({}, {})
    a = pool.servers[0]
    for number in range(1000):
        fail(pool, a, now=number / 1000)
        pool.check_passed(a, (number + 0.5) / 1000)
    assert len(caplog.messages) == 1
    pool.tick(2.0)
    assert caplog.messages[1:] == ["test/a is back: its check is good"]


def test_one_that_goes_down_while_it_is_failing_is_not_said_to_be_back(
    caplog: pytest.LogCaptureFixture,
):
    pool = pool_of({}, {})
    a = pool.servers[0]
    caplog.set_level(logging.INFO, "hermes_lb.health")
    fail(pool, a)
    a.set_up(False, "connection refused")
    a.set_up(True, "200 in 1 ms")
    for now in (5.0, 6.0, 7.0):
        pool.tick(now)
    assert len(caplog.messages) == 1
    fail(pool, a, now=8.0)
    assert len(caplog.messages) == 2


def test_a_process_that_follows_another_one_does_not_log(caplog: pytest.LogCaptureFixture):
    pool = pool_of({}, {})
    pool.is_leading = False
    fail(pool)
    answer(pool, pool.servers[0], 1.0)
    pool.tick(5.0)
    assert not caplog.messages


# What a probe leaves to those that wait.


def test_a_probe_that_begins_a_panic_lets_others_be_served():
    """Waiting requests waited for b alone; from then on a will do as well."""
    pool = pool_of({}, {"max_connections": 1})
    a, b = pool.servers
    held = pool.lease(b, 0.0)
    fail(pool, b, now=0.0)
    fail(pool, a, now=WINDOW + 1)
    assert not pool.in_panic  # b is due for its probe
    waiters = [FakeWaiter(), FakeWaiter()]
    for waiter in waiters:
        pool.wait(waiter)
    held.release()
    assert pool.in_panic
    assert [waiter.server for waiter in waiters] == ["b", "a"]


def test_a_probe_leaves_those_that_have_tried_all_others_the_last_resort():
    pool = pool_of({}, {}, {"max_connections": 1})
    a, b, c = pool.servers
    held = pool.lease(c, 0.0)
    fail(pool, c, now=0.0)
    fail(pool, b, now=WINDOW + 1)
    first, second = FakeWaiter(tried=(a,)), FakeWaiter(tried=(a,))
    pool.wait(first)
    pool.wait(second)
    held.release()
    assert not pool.in_panic
    assert (first.server, second.server) == ("c", "b")
