"""Passive failures, by nginx's `max_fails` and `fail_timeout`, and the verdict of the checks."""

from __future__ import annotations

import pytest

from tests.support.pools import make_pool

TIMEOUT = 10.0


def two(**first: object) -> tuple:
    pool = make_pool({"max_fails": 2, "fail_timeout": TIMEOUT, **first}, {})
    return pool, pool.servers[0]


def test_below_the_limit_it_stays():
    _, server = two()
    server.failed(now=0.0)
    assert server.may_serve(0.0)
    assert server.fails == 1


def test_at_the_limit_it_is_out_for_the_window_inclusive():
    _, server = two()
    server.failed(now=0.0)
    server.failed(now=1.0)
    assert not server.may_serve(1.0)
    assert not server.may_serve(1.0 + TIMEOUT)
    assert server.may_serve(1.0 + TIMEOUT + 0.001)


def test_the_window_starts_at_the_last_failure():
    _, server = two()
    server.failed(now=0.0)
    server.failed(now=TIMEOUT)
    assert not server.may_serve(TIMEOUT + 5)


def test_after_the_window_exactly_one_probe_goes_through():
    pool, server = two()
    server.failed(now=0.0)
    server.failed(now=0.0)
    later = TIMEOUT + 1
    assert server in pool.candidates((), later)
    pool.lease(server, later)
    assert server not in pool.candidates((), later)
    assert not server.may_serve(later + TIMEOUT)
    assert server.may_serve(later + TIMEOUT + 1)  # a probe without an answer: another one


def test_a_good_probe_brings_it_back():
    pool, server = two()
    server.failed(now=0.0)
    server.failed(now=0.0)
    pool.lease(server, TIMEOUT + 1)
    server.succeeded()
    assert server.fails == 0
    assert server.may_serve(TIMEOUT + 1)


def test_a_bad_probe_keeps_it_out():
    pool, server = two()
    server.failed(now=0.0)
    server.failed(now=0.0)
    pool.lease(server, TIMEOUT + 1)
    server.failed(now=TIMEOUT + 2)
    server.succeeded()  # another request's answer, late
    assert server.fails == 3
    assert not server.may_serve(TIMEOUT + 2)


def test_success_in_the_same_window_clears_nothing():
    pool, server = two()
    pool.lease(server, 0.0)
    server.failed(now=0.0)
    pool.lease(server, 5.0)
    server.succeeded()
    assert server.fails == 1
    server.failed(now=9.0)
    assert not server.may_serve(9.0)


def test_success_in_a_later_window_clears():
    pool, server = two()
    server.failed(now=0.0)
    pool.lease(server, TIMEOUT + 1)
    server.succeeded()
    assert server.fails == 0


def test_failures_add_up_over_windows_without_a_success():
    """As in nginx: `fails` is never set back by time alone."""
    pool, server = two()
    server.failed(now=0.0)
    pool.lease(server, TIMEOUT + 1)
    server.failed(now=TIMEOUT + 1)
    assert server.fails == 2
    assert not server.may_serve(TIMEOUT + 1)


def test_max_fails_zero_turns_it_off():
    _, server = two(max_fails=0)
    for _ in range(100):
        server.failed(now=0.0)
    assert server.may_serve(0.0)


def test_a_lone_server_is_never_taken_out():
    server = make_pool({"max_fails": 1, "fail_timeout": TIMEOUT}).servers[0]
    server.failed(now=0.0)
    assert server.may_serve(0.0)
    assert (server.state, server.in_panic) == ("failing", False)
    server.succeeded()
    assert server.fails == 0


def test_a_backup_means_it_is_not_alone():
    server = make_pool({"max_fails": 1}, {"backup": True}).servers[0]
    server.failed(now=0.0)
    assert not server.may_serve(0.0)


@pytest.mark.parametrize(
    ("weight", "max_fails", "expected"),
    [
        (9, 3, [6, 3, 0, 0]),
        (5, 2, [3, 1, 0, 0]),  # 5 // 2 a failure, and never below 0
        (1, 3, [1, 1, 1, 1]),  # nginx: the integer division leaves nothing to take
        (1, 1, [0, 0, 0, 0]),
        (7, 0, [7, 7, 7, 7]),
    ],
)
def test_effective_weight_falls(weight: int, max_fails: int, expected: list[int]):
    _, server = two(weight=weight, max_fails=max_fails)
    seen = []
    for _ in expected:
        server.failed(now=0.0)
        seen.append(server.effective_weight)
    assert seen == expected


def test_checks_take_it_out_and_bring_it_back_clean():
    pool, server = two(weight=4)
    server.failed(now=0.0)
    server.failed(now=0.0)
    server.set_up(False, "status 500")
    assert pool.candidates((), TIMEOUT + 1) == [pool.servers[1]]
    assert server.last_check == "status 500"
    server.set_up(True, "status 200")
    assert (server.fails, server.effective_weight) == (0, 4)
    assert server.may_serve(0.0)


def test_a_verdict_that_changes_nothing_keeps_the_failures():
    _, server = two()
    server.failed(now=0.0)
    server.set_up(True, "status 200")
    assert server.fails == 1


def test_marked_down_stays_down():
    _, server = two(down=True)
    server.set_up(True, "status 200")
    assert not server.is_up
    assert not server.may_serve(0.0)


def test_full():
    pool, server = two(max_connections=1)
    lease = pool.lease(server, 0.0)
    assert server.is_full
    lease.release()
    assert not server.is_full


def test_load_counts_leases_and_who_waits_for_it():
    _, server = two()
    server.in_flight, server.queued = 2, 3
    assert server.load == 5


def test_repr_tells_the_state():
    _, server = two(weight=3)
    server.failed(now=0.0)
    server.set_up(False, "")
    assert repr(server) == ("<Server a 10.0.0.1:80 down, weight 3, 0 in flight, 0 queued, 1 fails>")


def test_a_failure_behind_its_window_takes_it_out_again_and_tells_the_pool():
    """Queued requests may be served by another one now, and must not wait for the next tick."""
    _, server = two(max_fails=1, fail_timeout=5.0)
    server.failed(0.0)
    assert not server.has_failed(10.0)
    changes: list[bool] = []
    server.when_changed = lambda: changes.append(server.has_failed(10.0))
    server.failed(10.0)
    assert changes == [True]
    server.failed(10.0)
    assert changes == [True]
