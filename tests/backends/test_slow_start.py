"""Slow start: weight and `max_connections` grow in 16 steps after a server came back."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.balancing import STRATEGIES, ConsistentHash
from hermes_lb.balancing.hashing import HashOptions
from hermes_lb.balancing.round_robin import RoundRobin
from tests.support.pools import FakeRequest, FakeWaiter, make_pool

if TYPE_CHECKING:
    from hermes_lb.backends import Pool, Server

SLOW = {"slow_start": 16.0}  # a step a second


def one_back(**first: object) -> tuple[Pool, Server]:
    """Two servers; the first has just come back, at the time 0."""
    pool = make_pool({**SLOW, **first}, {})
    server = pool.servers[0]
    server.set_up(False, "")
    server.set_up(True, "")
    pool.tick(0.0)
    return pool, server


def test_who_has_none_and_is_said_to_be_in_one_is_warm_at_once():
    """Another process says so, by a configuration that this one does not have any more."""
    _, cold = one_back(weight=10, max_connections=40)
    pool = make_pool({"weight": 10, "max_connections": 40})
    server = pool.servers[0]
    server.restore(cold.snapshot())
    assert server.warmth < 1.0
    pool.tick(1.0)
    assert (server.weight, server.max_connections, server.warmth) == (10, 40, 1.0)


def test_it_never_applies_at_the_start_of_the_process():
    pool = make_pool({**SLOW, "weight": 10, "max_connections": 40}, {})
    pool.tick(0.0)
    server = pool.servers[0]
    assert (server.weight, server.max_connections, server.warmth) == (10, 40, 1.0)


def test_nor_for_a_server_that_waited_for_its_first_check():
    pool = make_pool({**SLOW, "weight": 10}, {})
    server = pool.servers[0]
    server.await_first_check()
    server.set_up(True, "")
    pool.tick(0.0)
    assert server.weight == 10


def test_but_if_that_check_failed_it_does():
    pool = make_pool({**SLOW, "weight": 10}, {})
    server = pool.servers[0]
    server.await_first_check()
    server.set_up(False, "503, expected 200")
    server.set_up(True, "")
    assert server.weight == 10 / 16
    assert pool.weights == (10, 1)


def test_a_server_without_it_is_whole_at_once():
    _, server = one_back(slow_start=0.0, weight=10)
    assert server.weight == 10


@pytest.mark.parametrize(
    ("now", "weight", "most"),
    [
        (0.0, 10, 2),  # at least one step
        (0.999, 10, 2),
        (1.0, 20, 4),
        (7.5, 80, 15),
        (8.0, 90, 17),  # 16.875, rounded up
        (14.999, 150, 29),
        (15.0, 160, 30),
        (1000.0, 160, 30),
    ],
)
def test_weight_and_limit_grow_in_steps(now: float, weight: float, most: int):
    pool, server = one_back(weight=160, max_connections=30)
    pool.tick(now)
    assert (server.weight, server.max_connections) == (weight, most)


def test_no_limit_stays_no_limit():
    _, server = one_back()
    assert server.max_connections == 0
    assert not server.is_full


def test_the_first_request_finds_it_reduced_before_any_tick():
    pool = make_pool(SLOW, {})
    server = pool.servers[0]
    server.set_up(False, "")
    server.set_up(True, "")
    assert server.weight == 1 / 16


def test_down_in_the_middle_restarts_it():
    pool, server = one_back(weight=160)
    pool.tick(10.0)
    server.set_up(False, "")
    pool.tick(12.0)
    server.set_up(True, "")
    pool.tick(13.0)
    assert server.weight == 10
    pool.tick(14.0)
    assert server.weight == 20


def test_a_degraded_server_goes_on_warming_up():
    pool, server = one_back(weight=100)
    server.set_degraded("")
    pool.tick(19.0)
    server.set_up(True, "")
    assert server.weight == 100


def test_a_weight_that_is_set_meanwhile_is_the_new_goal():
    pool, server = one_back(weight=100)
    pool.tick(7.5)
    server.set_weight(10)
    assert (server.weight, server.full_weight) == (5, 10)
    pool.tick(19.0)
    assert server.weight == 10
    server.set_weight(0)
    assert pool.up == [pool.servers[1]]


def test_a_failure_does_not_reduce_what_is_reduced():
    pool, server = one_back(weight=100)
    server.failed(0.0)
    assert server.effective_weight == server.weight
    assert pool.candidates((), 0.0) == pool.servers


def test_who_waits_gets_the_room_that_a_step_makes():
    pool = make_pool({**SLOW, "max_connections": 16})
    server = pool.servers[0]
    server.set_up(False, "")
    server.set_up(True, "")
    pool.tick(0.0)
    pool.lease(server, 0.0)
    assert server.is_full
    waiter = FakeWaiter()
    pool.wait(waiter)
    pool.tick(0.9)
    assert waiter.server is None
    pool.tick(1.0)
    assert waiter.server == "a"


@given(
    weight=st.integers(1, 1000),
    limit=st.integers(0, 1000),
    slow_start=st.floats(0.001, 1e5),
    gaps=st.lists(st.floats(0.0, 1e4), max_size=30),
)
def test_it_only_grows_and_gets_there(
    weight: int, limit: int, slow_start: float, gaps: list[float]
):
    pool, server = one_back(weight=weight, max_connections=limit, slow_start=slow_start)
    now, seen = 0.0, [(server.weight, server.max_connections)]
    for gap in gaps:
        now += gap
        pool.tick(now)
        seen.append((server.weight, server.max_connections))
    for (weight_before, limit_before), (weight_after, limit_after) in pairwise(seen):
        assert 0 < weight_before <= weight_after <= weight
        assert min(1, limit) <= limit_before <= limit_after <= limit
    pool.tick(now + slow_start)
    assert (server.weight, server.max_connections) == (weight, limit)


def test_round_robin_follows():
    pool, _ = one_back()
    strategy, shares = RoundRobin(), []
    for now in (0.0, 7.0, 15.0):
        pool.tick(now)
        picks = Counter(
            server.name
            for _ in range(1700)
            if (server := strategy.pick(pool, FakeRequest(), now, Random(1)))
        )
        shares.append(picks["a"] / picks["b"])
    assert shares == pytest.approx([1 / 16, 0.5, 1.0], rel=0.02)


def test_keys_do_not_move_while_it_warms_up():
    """A table is built of full weights, however warm the servers are when it is."""
    settled = make_pool(SLOW, {}, {})
    warming = make_pool(SLOW, {}, {})
    warming.servers[0].set_up(False, "")
    warming.servers[0].set_up(True, "")
    warming.tick(0.0)
    one, other = (
        ConsistentHash(HashOptions(load_factor=0.0)),
        ConsistentHash(HashOptions(load_factor=0.0)),
    )
    for n in range(200):
        request = FakeRequest(f"10.1.2.{n}")
        picked = one.pick(warming, request, 0.0, Random(1))
        wanted = other.pick(settled, request, 0.0, Random(1))
        assert picked is not None
        assert wanted is not None
        assert picked.name == wanted.name


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_bears_a_server_that_warms_up(name: str):
    pool, _ = one_back()
    strategy, rng = STRATEGIES[name](), Random(1)
    for n in range(100):
        pool.tick(n / 5)
        server = strategy.pick(pool, FakeRequest(f"10.1.{n}.1"), n / 5, rng)
        assert server in pool.servers
        pool.lease(server, n / 5)
