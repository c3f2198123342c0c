"""Draws by weight: the shares are right, whichever servers cannot take the request."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pytest

from hermes_lb.balancing.at_random import AtRandom
from hermes_lb.balancing.weighted_sampler import WeightedSampler
from tests.support.pools import FakeRequest, make_pool
from tests.support.strategies import assert_shares, many

if TYPE_CHECKING:
    from hermes_lb.backends import Pool

DRAWS = 20_000


def drawn(pool: Pool, **request: object) -> Counter[str]:
    strategy, rng = AtRandom(), Random(11)
    picks = [strategy.pick(pool, FakeRequest(**request), 0.0, rng) for _ in range(DRAWS)]
    return Counter(server.name if server else "-" for server in picks)


def test_equal_weights_have_equal_shares():
    assert_shares(drawn(many(7)), {f"s{i}": 1 for i in range(7)})


def test_shares_go_by_weight():
    pool = make_pool({"weight": 5}, {"weight": 1}, {"weight": 3})
    assert_shares(drawn(pool), {"a": 5, "b": 1, "c": 3})


def test_the_shares_of_the_others_stay_when_some_cannot():
    pool = make_pool(
        {"weight": 5}, {"weight": 90, "max_connections": 1}, {"weight": 3}, {"weight": 2}
    )
    pool.lease(pool.servers[1], 0.0)
    assert_shares(drawn(pool, tried=[pool.servers[2]]), {"a": 5, "d": 2})


def test_one_that_can_among_a_thousand_is_found():
    pool = many(1000, max_connections=1)
    for server in pool.servers[1:]:
        pool.lease(server, 0.0)
    assert drawn(pool) == {"s0": DRAWS}


def test_backups_share_by_weight():
    pool = make_pool({"down": True}, {"backup": True, "weight": 3}, {"backup": True})
    assert_shares(drawn(pool), {"b": 3, "c": 1})


@pytest.mark.parametrize("tries_one", [False, True])
def test_a_second_one_is_another_and_drawn_by_weight_from_the_rest(tries_one: bool):
    """Pairs come as without replacement: P(i, j) = w_i / W x w_j / (W - w_i)."""
    weights = {"a": 5, "b": 1, "c": 3, "d": 1}
    pool = make_pool(*[{"weight": weight} for weight in weights.values()], {"weight": 4})
    if tries_one:
        tried = [pool.servers[4]]
    else:
        tried = []
        pool.servers[4].set_up(False, "")
    lots, rng = WeightedSampler(), Random(3)
    pairs = Counter[str]()
    for _ in range(DRAWS):
        pair = lots.two(pool, FakeRequest(tried=tried), 0.0, rng)
        assert pair is not None
        pairs[pair[0].name + pair[1].name] += 1
    total = sum(weights.values())
    expected = {
        i + j: weights[i] * weights[j] / (total - weights[i])
        for i in weights
        for j in weights
        if i != j
    }
    assert_shares(pairs, expected)


def test_two_of_one_is_twice_the_same():
    pool = make_pool({}, {"down": True})
    pair = WeightedSampler().two(pool, FakeRequest(), 0.0, Random(0))
    assert pair == (pool.servers[0], pool.servers[0])


def test_two_with_one_left_of_many():
    pool = many(50, max_connections=1)
    for server in pool.servers[1:]:
        pool.lease(server, 0.0)
    pair = WeightedSampler().two(pool, FakeRequest(), 0.0, Random(0))
    assert pair == (pool.servers[0], pool.servers[0])


def test_some_are_candidates_and_at_least_one():
    pool = many(50, max_connections=1)
    for server in pool.servers[1:]:
        pool.lease(server, 0.0)
    assert WeightedSampler().some(pool, FakeRequest(), 0.0, Random(0), 3) == [pool.servers[0]]
    assert (
        WeightedSampler().some(pool, FakeRequest(tried=[pool.servers[0]]), 0.0, Random(0), 3) == []
    )


def test_new_weights_count_at_once():
    pool = make_pool({}, {})
    lots, rng = WeightedSampler(), Random(5)
    assert lots.one(pool, FakeRequest(), 0.0, rng) is not None
    pool.servers[0].set_weight(9)
    names = [lots.one(pool, FakeRequest(), 0.0, rng) for _ in range(DRAWS)]
    assert_shares(Counter(server.name for server in names if server), {"a": 9, "b": 1})
