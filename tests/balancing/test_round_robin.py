"""Smooth weighted round-robin, as nginx has it."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.balancing.round_robin import RoundRobin
from tests.support.pools import FakeRequest, make_pool


def picks(pool, count: int, **request: object) -> str:
    strategy, rng = RoundRobin(), Random(0)
    found = [strategy.pick(pool, FakeRequest(**request), 0.0, rng) for _ in range(count)]
    return " ".join(server.name if server else "-" for server in found)


@pytest.mark.parametrize(
    ("servers", "order"),
    [
        ([{"weight": 5}, {"weight": 1}, {"weight": 1}], "a a b a c a a a a b a c a a"),
        ([{}, {}, {}], "a b c a b c a"),
        ([{"weight": 4}, {"weight": 2}, {"weight": 1}], "a b a c a b a"),
        ([{}, {"down": True}, {"weight": 2}], "c a c c a c"),
        ([{"down": True}, {"backup": True, "weight": 2}, {"backup": True}], "b c b b c b"),
    ],
    ids=["5 1 1", "equal", "4 2 1", "one is down", "backups"],
)
def test_turns_by_weight(servers: list[dict[str, Any]], order: str):
    assert picks(make_pool(*servers), len(order.split())) == order


def test_one_that_was_tried_is_passed_over():
    pool = make_pool({}, {}, {})
    assert picks(pool, 4, tried=[pool.servers[0]]) == "b c b c"


def test_after_a_failure_the_weight_grows_back_by_one_a_pick():
    """Weight 4, `max_fails` 2: one failure takes 2 of 4 away."""
    pool = make_pool({"weight": 4, "max_fails": 2}, {"weight": 4})
    pool.servers[0].failed(now=0.0)
    weights = []
    order = []
    for _ in range(4):
        weights.append(pool.servers[0].effective_weight)
        order.append(picks(pool, 1))
    assert weights == [2, 3, 4, 4]
    assert "".join(order) == "baba"


def test_turns_belong_to_the_servers_not_to_the_strategy():
    """A new strategy object, as after a reload, continues the sequence of the old one."""
    pool = make_pool({}, {}, {})
    assert [picks(pool, 1) for _ in range(4)] == ["a", "b", "c", "a"]


@given(weights=st.lists(st.integers(1, 30), min_size=1, max_size=6), rounds=st.integers(1, 3))
def test_every_round_shares_exactly_by_weight(weights: list[int], rounds: int):
    pool = make_pool(*[{"weight": weight} for weight in weights])
    counts = Counter(picks(pool, rounds * sum(weights)).split())
    assert [counts[server.name] for server in pool.servers] == [w * rounds for w in weights]
    assert all(server.current_weight == 0 for server in pool.servers)
