from __future__ import annotations

from random import Random
from statistics import fmean, stdev

import pytest

from hermes_lb.lab.workloads import (
    Lengths,
    addresses,
    constant,
    exponential,
    lognormal,
    pareto,
    poisson,
)


@pytest.mark.parametrize(
    "lengths",
    [constant(2.0), exponential(0.5), lognormal(3.0, 1.5), pareto(20.0, 1.5, 3600.0)],
    ids=lambda lengths: lengths.text,
)
def test_drawn_lengths_have_the_mean_that_is_said(lengths: Lengths) -> None:
    """Within five standard errors; these are small enough to tell a wrong formula."""
    rng = Random(5)
    drawn = [lengths.draw(rng) for _ in range(100_000)]
    error = stdev(drawn) / len(drawn) ** 0.5
    assert error < 0.02 * lengths.mean
    assert abs(fmean(drawn) - lengths.mean) <= 5 * error + 1e-9


def test_heavy_tails_are_cut_where_it_is_said() -> None:
    rng = Random(5)
    drawn = [pareto(20.0, 1.5, 3600.0).draw(rng) for _ in range(100_000)]
    assert min(drawn) >= 20.0
    assert max(drawn) == 3600.0


def test_arrivals_come_at_the_rate_and_in_order() -> None:
    work = poisson(Random(1), 10_000, 50.0, exponential(1.0))
    assert list(work.arrivals) == sorted(work.arrivals)
    # 10,000 exponential gaps: the sum's standard deviation is 1 % of it.
    assert work.horizon == pytest.approx(200.0, rel=0.05)


def test_an_answer_comes_whole_or_its_first_token_before_the_rest() -> None:
    whole = poisson(Random(1), 100, 50.0, exponential(1.0))
    assert whole.firsts == whole.lengths
    streamed = poisson(Random(1), 100, 50.0, exponential(1.0), first=exponential(0.1))
    assert all(f < n for f, n in zip(streamed.firsts, streamed.lengths, strict=True))


def test_the_busiest_tenth_of_users_makes_some_22_percent_of_the_requests() -> None:
    work = poisson(Random(1), 50_000, 50.0, exponential(1.0), users=1000)
    share = sum(user < 100 for user in work.users) / 50_000
    assert share == pytest.approx(0.1 ** (2 / 3), abs=5 * (0.22 * 0.78 / 50_000) ** 0.5)


def test_every_user_has_a_network_of_its_own() -> None:
    assert len({address.rpartition(".")[0] for address in addresses(65_536)}) == 65_536
