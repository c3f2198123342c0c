"""The fewest in flight for its weight; equals take turns by weight."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.balancing.leastconn import LeastConn
from tests.support.pools import FakeRequest, FakeWaiter, make_pool


def pick(pool, **request: object) -> str:
    server = LeastConn().pick(pool, FakeRequest(**request), 0.0, Random(0))
    return server.name if server else "-"


def loaded(*servers: tuple[int, int]):
    """A pool from (weight, in flight) each."""
    pool = make_pool(*[{"weight": weight} for weight, _ in servers])
    for server, (_, in_flight) in zip(pool.servers, servers, strict=True):
        for _ in range(in_flight):
            pool.lease(server, 0.0)
    return pool


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ([(1, 3), (1, 2), (1, 4)], "b"),
        ([(1, 0), (1, 0), (1, 1)], "a"),
        ([(1, 1), (5, 4), (1, 2)], "b"),  # 4/5 < 1/1
        ([(2, 3), (3, 4)], "b"),  # 3/2 > 4/3: no rounding
        ([(3, 4), (2, 3)], "a"),
        ([(1, 1), (100, 99), (1, 0)], "c"),
        ([(65_535, 2), (1, 0)], "b"),  # no requests is less than any
    ],
)
def test_the_least_loaded(servers: list[tuple[int, int]], expected: str):
    assert pick(loaded(*servers)) == expected


def test_idle_servers_share_by_weight():
    pool = loaded((5, 0), (1, 0), (1, 0))
    assert " ".join(pick(pool) for _ in range(7)) == "a a b a c a a"


def test_equals_take_turns_without_the_busier_one():
    pool = loaded((1, 1), (1, 5), (1, 1))
    assert " ".join(pick(pool) for _ in range(4)) == "a c a c"


def test_equal_for_their_weights_are_equals():
    pool = loaded((2, 2), (3, 3), (1, 2))
    assert Counter(pick(pool) for _ in range(5)) == {"a": 2, "b": 3}


def test_who_waits_for_a_server_counts():
    pool = loaded((1, 2), (1, 1))
    for _ in range(2):
        pool.wait(FakeWaiter(pool.servers[1]))
    assert pick(pool) == "a"


def test_a_released_lease_does_not_count():
    pool = loaded((1, 1), (1, 0))
    lease = pool.lease(pool.servers[1], 0.0)
    other = pool.lease(pool.servers[1], 0.0)
    assert pick(pool) == "a"
    lease.release()
    other.release()
    assert pick(pool) == "b"


@given(
    servers=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=6),
    down=st.sets(st.integers(0, 5)),
)
def test_nobody_else_is_less_loaded(servers: list[tuple[int, int]], down: set[int]):
    pool = loaded(*servers)
    for i in down:
        if i < len(pool.servers):
            pool.servers[i].set_up(False, "")
    candidates = list(pool.candidates((), 0.0))
    server = LeastConn().pick(pool, FakeRequest(), 0.0, Random(0))
    if server is None:
        assert not candidates
    else:
        assert server in candidates
        assert server.load / server.weight == min(s.load / s.weight for s in candidates)


@given(weights=st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_idle_shares_are_exact(weights: list[int]):
    pool = loaded(*[(weight, 0) for weight in weights])
    counts = Counter(pick(pool) for _ in range(sum(weights)))
    assert [counts[server.name] for server in pool.servers] == weights


@given(weights=st.lists(st.integers(1, 20), min_size=1, max_size=5), rounds=st.integers(1, 5))
def test_held_requests_are_shared_by_weight(weights: list[int], rounds: int):
    pool = loaded(*[(weight, 0) for weight in weights])
    for _ in range(sum(weights) * rounds):
        server = LeastConn().pick(pool, FakeRequest(), 0.0, Random(0))
        assert server is not None
        pool.lease(server, 0.0)
    assert [server.in_flight for server in pool.servers] == [w * rounds for w in weights]
