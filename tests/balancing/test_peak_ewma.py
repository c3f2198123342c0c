"""Cost: peaks count at once, recovery is slow, and errors are never fast."""

from __future__ import annotations

from math import exp, inf
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.balancing.peak_ewma import PeakEwma
from tests.support.pools import FakeRequest, make_pool
from tests.support.strategies import FakeAnswer, load

if TYPE_CHECKING:
    from hermes_lb.backends import Pool, Server

TAU = 10.0


def pick(strategy: PeakEwma, pool: Pool, now: float = 0.0) -> str:
    server = strategy.pick(pool, FakeRequest(), now, Random(0))
    return server.name if server else "-"


def answered(strategy: PeakEwma, server: Server, seconds: float, now: float, status: int = 200):
    strategy.answered(server, FakeAnswer(status), seconds, now)  # type: ignore[arg-type]


def test_by_hand():
    pool, strategy = make_pool({}), PeakEwma(PeakEwma.options(tau=TAU))
    (a,) = pool.servers
    assert strategy.cost(a, 0.0) == 0.0
    answered(strategy, a, 2.0, now=0.0)
    assert strategy.cost(a, 0.0) == 2.0
    assert strategy.cost(a, TAU) == pytest.approx(2.0 / 2.718281828)
    answered(strategy, a, 0.5, now=TAU)  # below 0.7358: 0.7358 + 0.5 x (1 - 0.3679)
    assert strategy.cost(a, TAU) == pytest.approx(1.0518, abs=1e-4)
    answered(strategy, a, 4.0, now=TAU)  # a peak
    assert strategy.cost(a, TAU) == 4.0
    load(pool, 2)
    assert strategy.cost(a, TAU) == 12.0


def naive(samples: list[tuple[float, float]], now: float) -> float:
    """The rule, written a second time from the first sample on: (when, seconds) -> the average."""
    average, at = -inf, 0.0
    for when, seconds in samples:
        weight = exp(-(when - at) / TAU)
        average = (
            seconds if seconds >= average * weight else (average * weight + (1 - weight) * seconds)
        )
        at = when
    return average * exp(-(now - at) / TAU)


@given(
    steps=st.lists(st.tuples(st.floats(0, 30), st.floats(0, 5)), min_size=1, max_size=20),
    later=st.floats(0, 30),
    in_flight=st.integers(0, 5),
    weight=st.integers(1, 9),
)
def test_cost_against_a_naive_model(
    steps: list[tuple[float, float]], later: float, in_flight: int, weight: int
):
    pool, strategy = make_pool({"weight": weight}), PeakEwma(PeakEwma.options(tau=TAU))
    load(pool, in_flight)
    samples, now = [], 0.0
    for wait, seconds in steps:
        now += wait
        samples.append((now, seconds))
        answered(strategy, pool.servers[0], seconds, now)
    expected = naive(samples, now + later) * (in_flight / weight + 1)
    assert strategy.cost(pool.servers[0], now + later) == pytest.approx(expected, abs=1e-12)


def test_the_sooner_answer_wins():
    pool, strategy = make_pool({}, {}), PeakEwma()
    answered(strategy, pool.servers[0], 0.3, 0.0)
    answered(strategy, pool.servers[1], 0.1, 0.0)
    load(pool, 0, 1)
    assert pick(strategy, pool) == "b"  # 0.1 x 2 < 0.3 x 1
    load(pool, 0, 2)
    assert pick(strategy, pool) == "a"  # 0.1 x 4 > 0.3


def test_weights_divide_what_is_in_flight():
    pool, strategy = make_pool({"weight": 4}, {"weight": 1}), PeakEwma()
    answered(strategy, pool.servers[0], 0.3, 0.0)
    answered(strategy, pool.servers[1], 0.1, 0.0)
    assert pick(strategy, pool) == "b"
    load(pool, 4, 6)
    assert pick(strategy, pool) == "a"  # 0.3 x 2 < 0.1 x 7


def test_of_two_that_differ_by_less_than_a_tenth_the_first_drawn_is_taken():
    pool, strategy = make_pool({}, {}), PeakEwma()
    answered(strategy, pool.servers[0], 0.100, 0.0)
    for seconds, expected in ((0.095, {"a", "b"}), (0.089, {"b"})):
        strategy.forget(pool.servers[1])
        answered(strategy, pool.servers[1], seconds, 0.0)
        rng = Random(1)
        found = [strategy.pick(pool, FakeRequest(), 0.0, rng) for _ in range(40)]
        assert {server.name for server in found if server} == expected


def test_one_that_has_never_answered_gets_one_request_and_no_second():
    pool, strategy = make_pool({}, {}), PeakEwma()
    answered(strategy, pool.servers[0], 3.0, 0.0)
    assert pick(strategy, pool) == "b"
    load(pool, 5, 1)
    assert pick(strategy, pool) == "a"


def test_a_peak_is_felt_at_once_and_fades():
    pool, strategy = make_pool({}, {}), PeakEwma(PeakEwma.options(tau=TAU))
    for second in range(60):
        answered(strategy, pool.servers[0], 0.1, float(second))
        answered(strategy, pool.servers[1], 0.2, float(second))
    assert pick(strategy, pool, 59.0) == "a"
    answered(strategy, pool.servers[0], 1.0, 60.0)
    assert pick(strategy, pool, 60.0) == "b"
    for second in range(61, 100):
        answered(strategy, pool.servers[0], 0.1, float(second))
        answered(strategy, pool.servers[1], 0.2, float(second))
    assert pick(strategy, pool, 99.0) == "a"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_fast_error_is_not_fast(status: int):
    pool, strategy = make_pool({}, {}), PeakEwma()
    for second in range(5):
        answered(strategy, pool.servers[0], 0.5, float(second))
        answered(strategy, pool.servers[1], 0.001, float(second), status)
    assert pick(strategy, pool, 5.0) == "a"


def test_a_404_is_an_answer_like_any_other():
    pool, strategy = make_pool({}, {}), PeakEwma()
    answered(strategy, pool.servers[0], 0.5, 0.0)
    answered(strategy, pool.servers[1], 0.1, 0.0, 404)
    assert pick(strategy, pool) == "b"


def test_errors_before_any_good_answer_do_not_look_fast():
    pool, strategy = make_pool({}, {}), PeakEwma()
    answered(strategy, pool.servers[1], 0.001, 0.0, 500)
    answered(strategy, pool.servers[0], 0.8, 0.0)
    assert pick(strategy, pool) == "a"


def test_one_that_refused_a_connection_comes_last():
    pool, strategy = make_pool({"max_fails": 3}, {}), PeakEwma()
    answered(strategy, pool.servers[0], 0.1, 0.0)
    answered(strategy, pool.servers[1], 5.0, 0.0)
    assert pick(strategy, pool) == "a"
    pool.servers[0].failed(0.0)
    assert pick(strategy, pool) == "b"
    assert strategy.pick(pool, FakeRequest(tried=[pool.servers[1]]), 0.0, Random(0)) is not None


def test_one_that_refused_a_connection_comes_behind_one_whose_first_answer_is_awaited():
    pool, strategy = make_pool({"max_fails": 0}, {}), PeakEwma()
    load(pool, 0, 5)
    pool.servers[0].failed(0.0)
    rng = Random(1)
    assert {strategy.pick(pool, FakeRequest(), 1.0, rng) for _ in range(20)} == {pool.servers[1]}


def test_one_that_failed_is_tried_by_one_request_when_its_time_is_over():
    """Whatever it has in flight: a stream that began before the failure proves nothing."""
    pool, strategy = make_pool({"fail_timeout": 5}, {}), PeakEwma()
    a, b = pool.servers
    load(pool, 1, 0)
    a.failed(0.0)
    answered(strategy, b, 9.0, 0.0)
    assert pick(strategy, pool, 5.0) == "b"
    assert pick(strategy, pool, 5.1) == "a"
    probe = pool.lease(a, 5.1)
    assert pick(strategy, pool, 5.2) == "b"
    a.succeeded()
    probe.release()
    answered(strategy, a, 0.1, 5.2)
    assert pick(strategy, pool, 5.3) == "a"
