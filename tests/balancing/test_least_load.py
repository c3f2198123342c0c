"""Reported loads decide, corrected by the requests since the report."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pytest

from hermes_lb.balancing.least_load import LeastLoad
from tests.support.pools import FakeRequest, make_pool
from tests.support.strategies import FakeAnswer, assert_shares, load, many

if TYPE_CHECKING:
    from hermes_lb.backends import Pool, Server


def says(strategy: LeastLoad, server: Server, value: bytes, now: float = 0.0) -> None:
    fields = [(b"Content-Type", b"text/plain"), (b"x-Hermes-LOAD", value)]
    strategy.answered(server, FakeAnswer(200, *fields), 0.1, now)  # type: ignore[arg-type]


def picks(strategy: LeastLoad, pool: Pool, now: float = 0.0, count: int = 50) -> Counter[str]:
    rng = Random(1)
    found = [strategy.pick(pool, FakeRequest(), now, rng) for _ in range(count)]
    return Counter(server.name if server else "-" for server in found)


def test_the_one_that_reports_the_least():
    pool, strategy = make_pool({}, {}, {}), LeastLoad()
    for server, value in zip(pool.servers, (b"3", b"1.5", b"2"), strict=True):
        says(strategy, server, value)
    assert set(picks(strategy, pool)) == {"b"}


def test_the_load_is_for_its_weight():
    pool, strategy = make_pool({"weight": 4}, {}), LeastLoad()
    says(strategy, pool.servers[0], b"3")
    says(strategy, pool.servers[1], b"1")
    assert set(picks(strategy, pool)) == {"a"}


def test_what_was_sent_and_came_back_since_counts():
    pool, strategy = make_pool({}), LeastLoad()
    (a,) = pool.servers
    first = pool.lease(a, 0.0)
    says(strategy, a, b"5")  # ours is one of these
    assert strategy.load(a, 0.0) == 5
    second = pool.lease(a, 0.0)
    assert strategy.load(a, 0.0) == 6
    first.release()
    second.release()
    assert strategy.load(a, 0.0) == 4


def test_a_load_is_never_below_nothing():
    pool, strategy = make_pool({}), LeastLoad()
    lease = pool.lease(pool.servers[0], 0.0)
    says(strategy, pool.servers[0], b"0")
    lease.release()
    assert strategy.load(pool.servers[0], 0.0) == 0.0


def test_without_a_report_requests_in_flight_count():
    pool, strategy = make_pool({}, {}), LeastLoad()
    load(pool, 2, 1)
    assert set(picks(strategy, pool)) == {"b"}


def test_an_old_report_is_not_believed():
    pool, strategy = make_pool({}, {}), LeastLoad(LeastLoad.options(tau=10.0))
    says(strategy, pool.servers[0], b"9")
    load(pool, 0, 1)
    assert set(picks(strategy, pool, 9.9)) == {"b"}
    assert set(picks(strategy, pool, 10.0)) == {"a"}


@pytest.mark.parametrize(
    "value", [b"", b"-1", b"nan", b"inf", b"1e9", b"1_0", b"0x1", b"1.", b" 1", b"9" * 10]
)
def test_what_is_no_number_is_no_report(value: bytes):
    pool, strategy = make_pool({}), LeastLoad()
    says(strategy, pool.servers[0], value)
    assert strategy.load(pool.servers[0], 0.0) == 0


def test_equals_share_by_weight():
    pool = make_pool({"weight": 3}, {}, {"weight": 2})
    assert_shares(picks(LeastLoad(), pool, count=10_000), {"a": 3, "b": 1, "c": 2})


def test_of_many_not_all_run_to_the_one():
    """Of 100 servers eight are drawn: the one idle server is among them in 1 - 0.99^8 = 7.7 %."""
    pool, strategy = many(100), LeastLoad()
    load(pool, 0, *[1] * 99)
    counts = picks(strategy, pool, count=20_000)
    idle = 1 - 0.99**8
    assert_shares(
        Counter(idle=counts["s0"], busy=counts.total() - counts["s0"]),
        {"idle": idle, "busy": 1 - idle},
    )


def test_of_many_full_ones_the_one_that_can_is_found():
    pool = many(100, max_connections=1)
    load(pool, 0, *[1] * 99)
    assert set(picks(LeastLoad(), pool)) == {"s0"}
