"""Where a formula or a published figure exists, the laboratory agrees with it."""

from __future__ import annotations

from array import array
from collections import Counter
from itertools import pairwise
from math import exp, factorial
from random import Random
from statistics import fmean

import pytest

from hermes_lb.lab.workloads import Workload, constant, exponential, lognormal, poisson
from tests.support.laboratory import make_run, mean_and_error

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # some seconds each on an idle core

# Four standard errors: chance alone fails one of 16,000 such tests, and a fixed seed does so
# always or never. Each test also asks that the error is small enough to mean something.
ERRORS = 4


def erlang_c(servers: int, offered: float) -> float:
    """The probability that a request has to wait in M/M/c; `offered` in erlangs."""
    waiting = offered**servers / factorial(servers) * servers / (servers - offered)
    return waiting / (sum(offered**k / factorial(k) for k in range(servers)) + waiting)


def test_one_server_waits_as_m_m_1_says() -> None:
    """Wq = rho / (mu - lambda)."""
    work = poisson(Random(1), 200_000, 0.7, exponential(1.0))
    waits = make_run("round_robin", work).play().waits
    mean, error = mean_and_error(waits)
    expected = 0.7 / 0.3
    assert error < 0.02 * expected
    assert abs(mean - expected) <= ERRORS * error


def test_one_server_waits_as_pollaczek_and_khinchine_say() -> None:
    """M/G/1: Wq = rho (1 + cv^2) / (2 (1 - rho)) of a mean length; here cv = 2, and 0."""
    for lengths, variation in ((lognormal(1.0, 2.0), 2.0), (constant(1.0), 0.0)):
        work = poisson(Random(2), 300_000, 0.5, lengths)
        mean, error = mean_and_error(make_run("random", work).play().waits)
        expected = 0.5 * (1 + variation**2) / (2 * 0.5)
        assert error < 0.05 * expected
        assert abs(mean - expected) <= ERRORS * error


@pytest.mark.parametrize("where", ["in the machine", "at the balancer"])
@pytest.mark.parametrize(("servers", "load"), [(3, 0.8), (10, 0.9)])
def test_several_servers_wait_as_erlang_c_says(where: str, servers: int, load: float) -> None:
    """M/M/c, as one machine with c slots, and as c servers of one behind the balancer's queue."""
    work = poisson(Random(3), 300_000, load * servers, exponential(1.0))
    if where == "in the machine":
        run = make_run("leastconn", work, servers=1, slots=servers)
    else:
        run = make_run("leastconn", work, servers=servers, slots=0, limit=1)
    measures = run.play()
    mean, error = mean_and_error(measures.waits)
    probability = erlang_c(servers, load * servers)
    expected = probability / (servers - load * servers)
    assert error < 0.06 * expected
    assert abs(mean - expected) <= ERRORS * error
    waited, waited_error = mean_and_error([float(wait > 1e-9) for wait in measures.waits])
    assert abs(waited - probability) <= ERRORS * waited_error


def test_a_random_split_of_poisson_arrivals_is_m_m_1_at_each_server() -> None:
    work = poisson(Random(4), 300_000, 10 * 0.6, exponential(1.0))
    mean, error = mean_and_error(make_run("random", work, servers=10).play().waits)
    assert error < 0.02 * 1.5
    assert abs(mean - 0.6 / 0.4) <= ERRORS * error


@pytest.mark.parametrize("load", [0.7, 0.9])
def test_two_choices_wait_as_the_supermarket_model_says(load: float) -> None:
    """Mitzenmacher (1996): time in the system is the sum of load^(2^i - 2), for very many servers.

    His own simulation of 100 servers is 0.4 % (load 0.7) and 1.2 % (0.9) above the limit. Here are
    500, of which the first tenth of the requests, that find them empty, is left out: 2 %.
    """
    work = poisson(Random(5), 400_000, 500 * load, exponential(1.0))
    latencies = make_run("p2c", work, servers=500).play().latencies[40_000:]
    expected = sum(load ** (2**i - 2) for i in range(1, 12))
    assert fmean(latencies) == pytest.approx(expected, rel=0.02)


def test_the_least_of_eight_waits_as_the_same_model_says() -> None:
    """load^((8^i - 8) / 7): `least_load` draws eight, and here all reports are exact."""
    work = poisson(Random(6), 400_000, 500 * 0.9, exponential(1.0))
    latencies = make_run("least_load", work, servers=500).play().latencies[40_000:]
    expected = sum(0.9 ** ((8**i - 8) / 7) for i in range(1, 6))
    assert fmean(latencies) == pytest.approx(expected, rel=0.02)


# Balls into bins: n requests that never end, on n servers.

BINS = 1000
ROUNDS = 20


def loads(strategy: str, seed: int) -> list[int]:
    arrivals = array("d", [i * 1e-6 for i in range(BINS)])
    forever = array("d", [1.0]) * BINS
    work = Workload(arrivals, forever, forever, array("L", [0]) * BINS, ["10.0.0.1"])
    return make_run(strategy, work, servers=BINS, slots=0, seed=seed).play().counts


def shares_of_at_least(strategy: str) -> tuple[dict[int, float], list[int]]:
    """The share of servers with at least i requests, and each round's maximum."""
    found: Counter[int] = Counter()
    maxima = []
    for seed in range(ROUNDS):
        counts = loads(strategy, seed)
        assert sum(counts) == BINS
        maxima.append(max(counts))
        for count in counts:
            found.update(range(1, count + 1))
    return {i: found[i] / (BINS * ROUNDS) for i in range(1, 9)}, maxima


def test_random_fills_bins_as_poisson_says() -> None:
    """P(at least i) of Poisson(1), within five standard deviations of 20,000 bins; the maximum of
    1,000 is 4 to 9 with a probability of 0.9999 (P(at least 10) = 1.1e-7; P(all under 4) =
    0.981^1000)."""
    found, maxima = shares_of_at_least("random")
    for i, share in found.items():
        expected = 1.0 - sum(exp(-1.0) / factorial(k) for k in range(i))
        assert abs(share - expected) <= 5 * (expected / (BINS * ROUNDS)) ** 0.5
    assert all(4 <= maximum <= 9 for maximum in maxima)
    assert fmean(maxima) > 5.0


def test_two_choices_fill_bins_as_the_fluid_limit_says() -> None:
    """Mitzenmacher's ds_i/dt = s_(i-1)^2 - s_i^2, s_0 = 1, at t = 1: 0.762, 0.229, 0.009; so the
    fullest of 1,000 has 3 or, once in some 200 rounds, 4: ln ln n / ln 2 + O(1)."""
    expected = [1.0] + [0.0] * 6
    steps = 10_000
    for _ in range(steps):
        expected[1:] = [s + (before**2 - s**2) / steps for before, s in pairwise(expected)]
    found, maxima = shares_of_at_least("p2c")
    for i in range(1, 5):
        assert abs(found[i] - expected[i]) <= 5 * (expected[i] / (BINS * ROUNDS)) ** 0.5 + 1 / BINS
    assert expected[3] == pytest.approx(0.009, abs=0.0005)
    assert max(maxima) <= 4
    assert fmean(maxima) < 3.5


def test_leastconn_fills_every_bin_once() -> None:
    assert set(loads("leastconn", 1)) == {1}
