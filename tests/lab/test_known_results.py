"""Known results for the strategies, on the virtual clock; each margin has its source."""

from __future__ import annotations

from array import array
from math import ceil, exp
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING

import pytest

from hermes_lb.balancing import STRATEGIES
from hermes_lb.balancing.hashing import HashOptions
from hermes_lb.lab.experiment import Experiment
from hermes_lb.lab.fleet import make_fleet
from hermes_lb.lab.measures import percentiles
from hermes_lb.lab.pace import Pace
from hermes_lb.lab.workloads import Workload, addresses, constant, exponential, lognormal, poisson
from tests.lab.test_theory import erlang_c
from tests.support.laboratory import make_run, mean_and_error

if TYPE_CHECKING:
    from hermes_lb.backends import Server
    from hermes_lb.lab.job import Job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # some seconds each on an idle core

SERVERS = 10


def mean_wait(strategy: str, work: Workload, slots: int = 1) -> float:
    return fmean(make_run(strategy, work, servers=SERVERS, slots=slots).play().waits)


def test_leastconn_beats_round_robin_for_uneven_lengths_more_than_tenfold() -> None:
    """Round-robin does not see that a server still has a long one, so all behind it wait: by
    Kingman, (ca^2 + cs^2) / 2 x rho / (1 - rho), with ca^2 = 1/10 (every tenth arrival) and
    cs^2 = 4; a bound for heavy traffic, and at 0.7 a tenth too high. `leastconn` wastes a free
    server only while it can't know: it stays near one queue before all of them (M/G/10, by Lee and
    Longton: Erlang's wait x (1 + cs^2) / 2), which none that picks at once can be below.
    """
    work = poisson(Random(1), 200_000, SERVERS * 0.7, lognormal(1.0, 2.0))
    in_turn, least = mean_wait("round_robin", work), mean_wait("leastconn", work)
    kingman = (0.1 + 4) / 2 * 0.7 / 0.3
    assert in_turn == pytest.approx(0.9 * kingman, rel=0.15)
    shared_queue = erlang_c(SERVERS, 7.0) / (SERVERS - 7.0) * (1 + 4) / 2
    assert shared_queue <= least <= 2 * shared_queue
    assert in_turn / least > 10


def test_round_robin_beats_leastconn_where_all_lengths_are_equal() -> None:
    """The other side of it: servers in turn get evenly spaced requests (Erlang-10), while
    `leastconn` takes any free one, however lately it began. Both wait little: below a tenth of
    what a random server's queue does (M/D/1: rho / (1 - rho) / 2)."""
    work = poisson(Random(1), 200_000, SERVERS * 0.7, constant(1.0))
    in_turn, least = mean_wait("round_robin", work), mean_wait("leastconn", work)
    assert in_turn < least < 0.1 * 0.7 / 0.3 / 2


def test_two_choices_keep_the_fullest_server_far_below_randoms() -> None:
    """At load 0.9 a random server has k or more with probability 0.9^k, one of two choices
    0.9^(2^k - 1): of 100 servers at any moment one has 44 or more against 6 or more."""
    work = poisson(Random(2), 200_000, 100 * 0.9, exponential(1.0))
    one = make_run("random", work, servers=100).play()
    two = make_run("p2c", work, servers=100).play()
    assert one.peak > 44
    assert two.peak <= 12
    by_two = [s["most"] for s in two.samples[20:]]
    assert fmean(by_two) == pytest.approx(6.0, abs=1.0)


@pytest.mark.parametrize("strategy", ["consistent_hash", "maglev"])
@pytest.mark.parametrize("factor", [1.0, 1.25, 2.0])
def test_no_server_ever_has_more_than_the_bound(strategy: str, factor: float) -> None:
    """Mirrokni et al.: ceil(c x requests / servers), the new one included; at every pick, though
    one user sends half of the requests."""
    work = poisson(Random(3), 20_000, SERVERS * 3.0, exponential(1.0), users=300)
    for number in range(0, len(work.users), 2):
        work.users[number] = 0
    options = HashOptions(load_factor=factor)
    run = make_run(strategy, work, servers=SERVERS, slots=0, options=options)
    reached = 0

    def after_pick(job: Job, server: Server | None) -> None:
        nonlocal reached
        assert server is not None
        ceiling = ceil(factor * (run.pool.in_flight + 1) / SERVERS)
        assert server.in_flight + 1 <= ceiling
        reached += server.in_flight + 1 == ceiling

    run.after_pick = after_pick
    run.play()
    assert reached > 1000  # the bound was at work


@pytest.mark.parametrize(
    ("strategy", "most"),
    [
        # The ring moves what it must. Maglev's table moves a few more, for evenness.
        ("consistent_hash", 0.1 * 1.25),
        ("maglev", 0.1 * 2.5),
        # 10 and 9 have no common divisor: nine of ten keys move.
        ("ip_hash", 0.93),
    ],
)
def test_taking_out_one_of_ten_moves_few_sessions(strategy: str, most: float) -> None:
    moved, left_behind = sessions_moved(strategy, by_weight=True)
    assert left_behind <= moved <= most
    if strategy == "ip_hash":
        assert moved > 0.87  # six standard deviations of 4,000 users are 3 %


@pytest.mark.parametrize("strategy", ["consistent_hash", "maglev", "ip_hash"])
def test_the_failure_of_one_of_ten_moves_only_its_own_sessions(strategy: str) -> None:
    moved, left_behind = sessions_moved(strategy, by_weight=False)
    assert moved == left_behind


def sessions_moved(strategy: str, *, by_weight: bool) -> tuple[float, float]:
    """4,000 users ask, a server goes, they ask again: the share that moved, and that had to."""
    users = 4000
    seconds = array("d", [0.001]) * (2 * users)
    arrivals = array("d", [float(i) for i in range(2 * users)])
    work = Workload(
        arrivals, seconds, seconds, array("L", [*range(users), *range(users)]), addresses(users)
    )
    fleet = make_fleet(SERVERS, 0)
    gone = fleet.pool.servers[3]
    fleet.change(users - 0.5, lambda _: gone.set_weight(0) if by_weight else gone.set_up(False, ""))
    had = 0

    def count(job: Job, server: Server | None) -> None:
        nonlocal had
        had += server is gone

    run = make_run(strategy, work, fleet=fleet, options=HashOptions(load_factor=0.0))
    run.after_pick = count
    measures = run.play(fleet.changes)
    # The share of one of ten, within five standard deviations and the ring's own 8 %.
    assert had / users == pytest.approx(0.1, abs=0.05)
    return measures.moved / users, had / users


def slow_server(strategy: str, slots: int) -> tuple[float, float]:
    """One of ten at a fifth of its speed: its share of the requests, and p99 of all."""
    work = poisson(Random(1), 100_000, SERVERS * 4 * 0.4 / 0.5, exponential(0.5))
    fleet = make_fleet(SERVERS, slots)
    fleet.machines[0].pace = Pace([(0.0, 0.2)])
    measures = make_run(strategy, work, fleet=fleet).play()
    return measures.counts[0] / 100_000, percentiles(measures.latencies)["p99"]


def test_prequal_gives_a_slow_server_less_than_leastconn_does() -> None:
    """Machines that never queue. By in flight alone the slow one would get (1/5) / (9 + 1/5) =
    2.2 %, and more, as it is often empty; `prequal` goes by latency and sends a fifth less at
    least. With s of the requests there, P(longer than t) is s exp(-t / 2.5) + (1 - s) exp(-2 t), so
    p99 follows from s; within a tenth, as 1,000 requests are beyond it (chance: 3 %, more as they
    come together)."""
    least_share, least_p99 = slow_server("leastconn", 0)
    prequal_share, prequal_p99 = slow_server("prequal", 0)
    assert 0.022 < least_share < 0.044
    assert prequal_share < 0.8 * least_share
    for share, p99 in ((least_share, least_p99), (prequal_share, prequal_p99)):
        beyond = share * exp(-p99 / 2.5) + (1 - share) * exp(-p99 / 0.5)
        assert beyond == pytest.approx(0.01, rel=0.1)
    assert prequal_p99 < least_p99


def test_prequal_is_better_than_random_where_servers_queue() -> None:
    """Four slots each, load 0.7, no slow server. Random waits 0.18 s (Erlang C, four servers).

    By the average of latencies alone all went to the server that had been fastest, and waited 8 s.
    """
    work = poisson(Random(1), 50_000, SERVERS * 4 * 0.7 / 0.5, exponential(0.5))
    assert mean_wait("prequal", work, slots=4) < mean_wait("random", work, slots=4)


def test_prequal_is_even_where_the_time_to_the_first_byte_does_not_depend_on_load() -> None:
    """Agents that never queue: a first token in 0.5 s, five seconds more of it, 400 in flight on 50
    servers. Of 300 requests for each, five standard deviations of chance are 29 %.

    By its latency in proportion to what was in flight then, who had more looked faster: the shares
    were 0.4 to 1.6 of a fiftieth.
    """
    work = poisson(Random(7), 15_000, 400 / 5.5, exponential(5.0), first=exponential(0.5))
    measures = make_run("prequal", work, servers=50, slots=0).play()
    shares = [count / 300 for count in measures.counts]
    assert 0.71 < min(shares) <= max(shares) < 1.29


@pytest.mark.parametrize(
    ("strategy", "in_flight", "percent"),
    [
        ("peak_ewma", 0.5, [15, 24, 29, 32]),
        ("peak_ewma", 40.0, [11, 21, 29, 39]),
        ("prequal", 0.5, [24, 26, 25, 25]),
        ("prequal", 40.0, [11, 20, 30, 39]),
    ],
)
def test_where_times_vary_weights_hold_only_while_all_are_busy(
    strategy: str, in_flight: float, percent: list[int]
) -> None:
    """Weights of 1, 2, 3, 4. Another seed's shares are up to two per cent of the whole away."""
    work = poisson(Random(3), 40_000, in_flight / 0.05, exponential(0.05))
    fleet = make_fleet(4, 0)
    for weight, server in enumerate(fleet.pool.servers, start=1):
        server.set_weight(weight)
    counts = make_run(strategy, work, fleet=fleet).play().counts
    assert [100 * count / 40_000 for count in counts] == pytest.approx(percent, abs=2.0)


@pytest.mark.parametrize("strategy", ["consistent_hash", "maglev"])
def test_a_bound_moves_the_fewer_requests_the_more_are_in_flight(strategy: str) -> None:
    """Ten machines that never queue. The bound is a quarter above the mean: 1.4 standard deviations
    of Poisson where that is 30, of which 8 % are above, and each of these may move twice; and 4.3
    of them where it is 300, which leaves what keys are spread unevenly."""
    moved = {
        in_flight: bounded(strategy, in_flight, HashOptions().load_factor)
        for in_flight in (300, 3000)
    }
    assert 0.04 < moved[300] < 0.16
    assert moved[3000] < 0.005
    assert bounded(strategy, 300, 0.0) == 0.0


def bounded(strategy: str, in_flight: int, load_factor: float) -> float:
    """The share of requests that went elsewhere than their user's last one; each takes 1 s."""
    work = poisson(Random(3), 50_000, in_flight, exponential(1.0), users=5000)
    options = HashOptions(load_factor=load_factor)
    run = make_run(strategy, work, servers=SERVERS, slots=0, options=options)
    return run.play().moved / 50_000


def test_a_server_that_fails_fast_draws_requests_by_leastconn_and_not_by_peak_ewma() -> None:
    """It has nothing in flight, so for a fifth of the run `leastconn` sends it nearly all that the
    others' being equally busy allows; a draw of two at most a fifth; round-robin a tenth."""
    result = Experiment(list(STRATEGIES), SERVERS, 20_000).scenario("fails-fast")
    errors = {name: row["errors"].get("500", 0) for name, row in result["strategies"].items()}
    during = 20_000 / 5
    assert errors["leastconn"] > 0.5 * during
    assert errors["round_robin"] == pytest.approx(0.1 * during, rel=0.1)
    assert 0.15 * during < errors["p2c"] <= 0.2 * during * 1.1
    assert errors["peak_ewma"] < 0.15 * during


def test_errors_of_the_mean_shrink_with_the_number_of_requests() -> None:
    """The yardstick itself: four times the values, half the error, give or take its own chance (20
    batches: a sixth)."""
    rng = Random(1)
    _, few = mean_and_error([rng.random() for _ in range(10_000)])
    _, many = mean_and_error([rng.random() for _ in range(160_000)])
    assert many == pytest.approx(few / 4, rel=0.6)
