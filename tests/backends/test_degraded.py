"""Busy is not dead: a degraded server keeps its pinned sessions and gets no new ones."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from hermes_lb.balancing import STRATEGIES
from tests.support.pools import FakeRequest, FakeWaiter, make_pool, names

if TYPE_CHECKING:
    from hermes_lb.backends import Pool


def first_degraded(*servers: dict[str, object]) -> Pool:
    pool = make_pool(*servers)
    pool.servers[0].set_degraded("timeout after 5s")
    return pool


def test_states_from_best_to_worst():
    server = make_pool({}, {}).servers[0]
    assert server.state == "up"
    server.set_degraded("timeout after 5s")
    assert server.state == "degraded"
    server.eject(30.0, "5 failures in a row")
    assert server.state == "ejected"
    server.set_up(False, "connection refused")
    assert server.state == "down"
    server.set_up(True, "200 in 1 ms")
    assert server.state == "up"  # nothing of the past is left
    assert server.last_check == "200 in 1 ms"


def test_a_server_that_is_down_does_not_become_degraded():
    server = make_pool({}, {}).servers[0]
    server.set_up(False, "connection refused")
    server.set_degraded("timeout after 5s")
    assert server.state == "down"


def test_one_that_is_marked_down_stays_so():
    server = make_pool({"down": True}, {}).servers[0]
    server.set_degraded("")
    server.set_up(True, "")
    assert server.state == "maint"


def test_new_requests_go_elsewhere_and_pinned_ones_may_come():
    pool = first_degraded({}, {}, {})
    server = pool.servers[0]
    assert names(pool.candidates((), 0.0)) == "b c"
    assert server.may_serve(0.0)
    assert not server.can_take(0.0)


def test_a_good_check_brings_it_back_with_its_failures():
    pool = first_degraded({}, {})
    server = pool.servers[0]
    server.failed(0.0)
    server.set_up(True, "200 in 1 ms")
    assert (server.state, server.fails) == ("up", 1)
    assert pool.candidates((), 0.0) == pool.servers


@pytest.mark.parametrize(
    "servers",
    [
        pytest.param([{}], id="it is alone"),
        pytest.param([{}, {"down": True}], id="the other is down"),
        pytest.param([{}, {"down": True, "backup": True}], id="the backup is down"),
    ],
)
def test_it_serves_if_nobody_else_can(servers: list[dict[str, object]]):
    assert names(first_degraded(*servers).candidates((), 0.0)) == "a"


def test_a_backup_goes_before_it():
    assert names(first_degraded({}, {"backup": True}).candidates((), 0.0)) == "b"


def test_it_serves_if_the_other_has_failed():
    pool = first_degraded({}, {"max_fails": 1, "fail_timeout": 10.0})
    pool.servers[1].failed(0.0)
    assert names(pool.candidates((), 0.0)) == "a"
    assert names(pool.candidates((), 11.0)) == "b"


def test_it_serves_a_request_that_has_tried_the_others():
    pool = first_degraded({}, {}, {})
    assert names(pool.candidates(pool.servers[1:], 0.0)) == "a"
    assert pool.candidates(pool.servers, 0.0) == []


def test_all_degraded_are_all_used():
    pool = first_degraded({}, {})
    pool.servers[1].set_degraded("")
    assert pool.candidates((), 0.0) == pool.servers


def test_rather_than_to_a_degraded_one_a_request_waits_for_a_full_one():
    pool = first_degraded({}, {"max_connections": 1})
    lease = pool.lease(pool.servers[1], 0.0)
    assert pool.candidates((), 0.0) == []
    assert pool.can_wait(())
    waiter = FakeWaiter()
    pool.wait(waiter)
    pool.tick(1.0)
    assert waiter.server is None
    lease.release()
    assert waiter.server == "b"


def test_who_waits_gets_the_degraded_one_when_the_other_goes():
    pool = first_degraded({}, {"max_connections": 1})
    pool.lease(pool.servers[1], 0.0)
    waiter = FakeWaiter()
    pool.wait(waiter)
    pool.servers[1].set_up(False, "connection refused")
    assert waiter.server == "a"


def test_who_is_pinned_to_it_waits_for_it_and_is_served():
    pool = make_pool({"max_connections": 1}, {})
    server = pool.servers[0]
    lease = pool.lease(server, 0.0)
    waiter = FakeWaiter(pinned_to=server)
    pool.wait(waiter)
    server.set_degraded("")
    assert waiter.pinned_to is server
    lease.release()
    assert waiter.server == "a"


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_strategy_picks_it_while_another_can_serve(name: str):
    pool = first_degraded({}, {}, {})
    strategy, rng = STRATEGIES[name](), Random(1)
    for n in range(100):
        server = strategy.pick(pool, FakeRequest(f"10.1.{n}.1"), 0.0, rng)
        assert server in pool.servers[1:]
    for other in pool.servers[1:]:
        other.set_up(False, "")
    assert strategy.pick(pool, FakeRequest("10.1.2.3"), 0.0, rng) is pool.servers[0]
