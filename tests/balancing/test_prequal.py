"""Hot and cold: a busy server is not picked, and of the others the fastest is."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pytest

from hermes_lb.balancing.prequal import MAX_AGE, PROBES, Prequal, quantile_place
from tests.support.pools import FakeRequest, make_pool
from tests.support.strategies import FakeAnswer, load, many

if TYPE_CHECKING:
    from hermes_lb.backends import Pool, Server


def answered(strategy: Prequal, server: Server, seconds: float, now: float, status: int = 200):
    strategy.answered(server, FakeAnswer(status), seconds, now)  # type: ignore[arg-type]


def picks(strategy: Prequal, pool: Pool, now: float = 0.0, count: int = 30) -> list[str]:
    rng = Random(1)
    found = [strategy.pick(pool, FakeRequest(), now, rng) for _ in range(count)]
    return [server.name if server else "-" for server in found]


def settled(strategy: Prequal, pool: Pool, now: float = 0.0) -> str:
    """The server picked when all have been probed."""
    names = picks(strategy, pool, now)
    assert len(set(names[-10:])) == 1
    return names[-1]


@pytest.mark.parametrize(
    ("size", "expected"), [(1, 0.0), (2, 0.84), (3, 1.68), (16, 12.6), (101, 84.0)]
)
def test_where_the_quantile_is(size: int, expected: float):
    """As numpy's `quantile`, method "linear": 0.84 of the way from the first to the last."""
    place, part = quantile_place(size, 0.84)
    assert place + part == pytest.approx(expected)
    assert 0 <= part < 1
    assert place + (part > 0) < size


def test_the_fastest_of_the_cold():
    pool, strategy = make_pool({}, {}, {}), Prequal()
    for server, seconds in zip(pool.servers, (0.3, 0.1, 0.2), strict=True):
        answered(strategy, server, seconds, 0.0)
    load(pool, 1, 1, 1)
    assert settled(strategy, pool) == "b"


def test_a_hot_one_loses_however_fast_it_is():
    pool, strategy = make_pool({}, {}, {}), Prequal()
    for server, seconds in zip(pool.servers, (0.3, 0.001, 0.2), strict=True):
        answered(strategy, server, seconds, 0.0)
    load(pool, 1, 5, 1)
    assert settled(strategy, pool) == "c"


def test_the_busiest_sixth_is_hot():
    """Of 16 probed with 0 to 15 in flight the limit is 12.6: 13, 14 and 15 are hot."""
    pool, strategy = many(16), Prequal()
    load(pool, *range(16))
    for place, server in enumerate(pool.servers):
        seconds = 0.001 if place >= 13 else 0.01 if place == 12 else 1.0
        answered(strategy, server, seconds, 0.0)
    assert picks(strategy, pool, count=100)[-1] == "s12"


def test_in_flight_is_for_its_weight():
    pool, strategy = make_pool({"weight": 10}, {}), Prequal()
    answered(strategy, pool.servers[0], 0.1, 0.0)
    answered(strategy, pool.servers[1], 0.2, 0.0)
    load(pool, 9, 1)
    assert settled(strategy, pool) == "a"
    load(pool, 2, 0)
    assert settled(strategy, pool) == "b"


def test_probes_age_out():
    """Probes older than a second do not count: of two drawn servers one is picked."""
    pool, strategy = many(200), Prequal()
    fast = pool.servers[0]
    answered(strategy, fast, 0.001, 0.0)
    for server in pool.servers[1:]:
        answered(strategy, server, 1.0, 0.0)
    rng = Random(1)
    while strategy.pick(pool, FakeRequest(), 0.0, rng) is not fast:
        pass
    assert strategy.pick(pool, FakeRequest(), MAX_AGE, Random(7)) is fast
    assert len(strategy._probes) > 2
    assert strategy.pick(pool, FakeRequest(), 2 * MAX_AGE + 0.01, Random(7)) is not fast
    assert len(strategy._probes) == 2


def test_the_pool_of_probes_is_bounded():
    pool, strategy = many(200), Prequal()
    picks(strategy, pool, count=500)
    assert len(strategy._probes) == PROBES


def test_one_that_nobody_knows_is_tried():
    pool, strategy = make_pool({}, {}, {}), Prequal()
    answered(strategy, pool.servers[0], 0.1, 0.0)
    answered(strategy, pool.servers[1], 0.1, 0.0)
    assert settled(strategy, pool) == "c"


def test_a_latency_is_forgotten_and_its_server_is_tried_again():
    pool, strategy = make_pool({}, {}), Prequal(Prequal.options(tau=10.0))
    answered(strategy, pool.servers[0], 9.0, 0.0)
    for now in (0.0, 5.0, 9.0):
        answered(strategy, pool.servers[1], 0.1, now)
        assert settled(strategy, pool, now) == "b"
    answered(strategy, pool.servers[1], 0.1, 10.0)
    assert settled(strategy, pool, 10.0) == "a"


@pytest.mark.parametrize("status", [500, 502, 429])
def test_a_fast_error_draws_nobody(status: int):
    pool, strategy = make_pool({}, {}), Prequal()
    for now in range(5):
        answered(strategy, pool.servers[0], 0.5, float(now))
        answered(strategy, pool.servers[1], 0.001, float(now), status)
    assert settled(strategy, pool, 5.0) == "a"


def test_one_that_refused_a_connection_comes_last():
    pool, strategy = make_pool({"max_fails": 3}, {}), Prequal()
    answered(strategy, pool.servers[0], 0.1, 0.0)
    answered(strategy, pool.servers[1], 5.0, 0.0)
    assert settled(strategy, pool) == "a"
    pool.servers[0].failed(0.0)
    assert settled(strategy, pool, 2.0) == "b"


@pytest.mark.parametrize("others", [1, 4])
def test_one_that_refused_a_connection_comes_last_though_it_is_the_only_cold_one(others: int):
    """It has nothing in flight, as it refuses everything; the others are hot beside it."""
    pool, strategy = make_pool({"max_fails": 0}, *[{"max_fails": 0}] * others), Prequal()
    load(pool, *[0] * others, 9)
    for server in pool.servers[:-1]:
        server.failed(0.0)
    answered(strategy, pool.servers[-1], 5.0, 0.0)
    assert settled(strategy, pool, 1.0) == pool.servers[-1].name


def test_one_that_failed_is_tried_by_one_request_when_its_time_is_over():
    """Whatever it has in flight: a stream that began before the failure proves nothing."""
    pool, strategy = make_pool({"fail_timeout": 5}, {}), Prequal()
    a, b = pool.servers
    load(pool, 1, 1)
    a.failed(0.0)
    answered(strategy, b, 9.0, 0.0)
    assert settled(strategy, pool, 5.0) == "b"
    assert settled(strategy, pool, 5.1) == "a"
    pool.lease(b, 5.1)
    probe = pool.lease(a, 5.1)
    assert settled(strategy, pool, 5.2) == "b"
    a.succeeded()
    probe.release()
    answered(strategy, a, 0.1, 5.3)
    assert settled(strategy, pool, 5.3) == "a"


def test_one_that_went_down_is_no_probe_any_more():
    pool, strategy = many(40), Prequal()
    picks(strategy, pool)
    for server in pool.servers[:39]:
        server.set_up(False, "")
    assert set(picks(strategy, pool)) == {"s39"}


def test_a_burst_does_not_go_to_the_fastest_alone():
    """Before any response: a server with too many requests becomes hot, and the next one is picked.

    200 for the fastest by latency alone; at most a fifth of them here.
    """
    pool, strategy, rng = many(20), Prequal(), Random(3)
    for place, server in enumerate(pool.servers):
        answered(strategy, server, 0.1 + 0.01 * place, 0.0)
    for _ in range(200):
        server = strategy.pick(pool, FakeRequest(), 0.0, rng)
        assert server is not None
        pool.lease(server, 0.0)
    counts = Counter({server.name: server.in_flight for server in pool.servers})
    assert counts.total() == 200
    assert max(counts.values()) <= 40
    assert counts["s0"] > counts["s19"]
