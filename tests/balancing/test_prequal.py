"""Hot and cold: who is busy loses, and of the others the fastest wins."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pytest

from hermes_lb.balancing import Prequal
from hermes_lb.balancing.prequal import MAX_AGE, PROBES, quantile
from tests.balancing.support import FakeAnswer, load, many
from tests.pool.support import FakeRequest, make_pool

if TYPE_CHECKING:
    from hermes_lb.pool import Pool, Server


def answered(strategy: Prequal, server: Server, seconds: float, now: float, status: int = 200):
    strategy.answered(server, FakeAnswer(status), seconds, now)  # type: ignore[arg-type]


def picks(strategy: Prequal, pool: Pool, now: float = 0.0, count: int = 30) -> list[str]:
    rng = Random(1)
    found = [strategy.pick(pool, FakeRequest(), now, rng) for _ in range(count)]
    return [server.name if server else "-" for server in found]


def settled(strategy: Prequal, pool: Pool, now: float = 0.0) -> str:
    """Whom it takes when all have been probed."""
    names = picks(strategy, pool, now)
    assert len(set(names[-10:])) == 1
    return names[-1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], 3.0),
        ([0.0, 1.0], 0.84),
        ([0.0, 0.0, 0.0], 0.0),
        ([0.0, 1.0, 2.0], 1.68),
        ([float(n) for n in range(16)], 12.6),
        ([float(n) for n in range(101)], 84.0),
    ],
)
def test_quantile(values: list[float], expected: float):
    assert quantile(values, 0.84) == pytest.approx(expected)


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
        answered(strategy, server, 0.001 if place >= 13 else 0.1 + 0.01 * (16 - place), 0.0)
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
    """What was probed a second ago does not count: two are drawn anew, and one of these is it."""
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
    pool, strategy = make_pool({}, {}), Prequal(tau=10.0)
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


def test_one_that_went_down_is_no_probe_any_more():
    pool, strategy = many(40), Prequal()
    picks(strategy, pool)
    for server in pool.servers[:39]:
        server.set_up(False, "")
    assert set(picks(strategy, pool)) == {"s39"}


def test_a_burst_does_not_go_to_the_fastest_alone():
    """Before any of it is answered: whoever gets too much becomes hot, and the next one gets it.

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
