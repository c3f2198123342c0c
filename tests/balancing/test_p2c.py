"""Two are drawn, and the less loaded one is taken."""

from __future__ import annotations

from collections import Counter
from math import log
from random import Random

import pytest

from hermes_lb.balancing.at_random import AtRandom
from hermes_lb.balancing.p2c import PowerOfTwo
from tests.support.pools import FakeRequest, FakeWaiter, make_pool
from tests.support.strategies import assert_shares, load, many


def picks(pool, count: int = 20_000) -> Counter[str]:
    strategy, rng = PowerOfTwo(), Random(2)
    found = [strategy.pick(pool, FakeRequest(), 0.0, rng) for _ in range(count)]
    return Counter(server.name if server else "-" for server in found)


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ([(1, 3), (1, 2)], "b"),
        ([(5, 4), (1, 1)], "a"),  # 4/5 < 1/1
        ([(2, 3), (3, 4)], "b"),  # 3/2 > 4/3
        ([(65_535, 2), (1, 0)], "b"),
    ],
)
def test_of_two_the_less_loaded_for_its_weight(servers: list[tuple[int, int]], expected: str):
    pool = make_pool(*[{"weight": weight} for weight, _ in servers])
    load(pool, *[in_flight for _, in_flight in servers])
    assert picks(pool, 200) == {expected: 200}


def test_ranks_come_as_often_as_two_distinct_draws_say():
    """Of four with different loads: the pairs that the k-th wins are 3, 2, 1 and 0 of six."""
    pool = many(4)
    load(pool, 2, 0, 3, 1)
    assert_shares(picks(pool), {"s1": 3, "s3": 2, "s0": 1})


def test_idle_servers_share_by_weight():
    pool = make_pool({"weight": 5}, {"weight": 1}, {"weight": 2})
    assert_shares(picks(pool), {"a": 5, "b": 1, "c": 2})


def test_who_waits_for_a_server_counts():
    pool = make_pool({}, {})
    pool.wait(FakeWaiter(pool.servers[0]))
    assert picks(pool, 100) == {"b": 100}


def test_two_choices_are_far_better_than_one():
    """1,000 requests on 1,000 servers: the fullest has about ln ln n / ln 2 (3) against 5 or 6."""

    def fullest(strategy) -> int:
        pool, rng = many(1000), Random(4)
        for _ in range(1000):
            server = strategy.pick(pool, FakeRequest(), 0.0, rng)
            pool.lease(server, 0.0)
        return max(server.in_flight for server in pool.servers)

    assert fullest(PowerOfTwo()) <= round(log(log(1000)) / log(2)) + 1 < fullest(AtRandom())
