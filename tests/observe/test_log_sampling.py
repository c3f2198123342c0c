"""The sample: the right share, evenly spread, and not in step with anything."""

from __future__ import annotations

from itertools import pairwise

import pytest

from hermes_lb.observe.sampling import Sampler


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.99])
def test_the_share_is_kept(share: float) -> None:
    sampler = Sampler(share, 1.0)
    taken = sum(sampler.takes() for _ in range(10_000))
    assert taken == pytest.approx(share * 10_000, abs=5)


def test_no_two_that_are_taken_are_far_apart() -> None:
    sampler = Sampler(0.1, 1.0)
    taken = [n for n in range(10_000) if sampler.takes()]
    assert max(b - a for a, b in pairwise(taken)) <= 21


@pytest.mark.parametrize("period", [2, 3, 10, 100])
def test_traffic_that_repeats_itself_is_sampled_in_all_its_parts(period: int) -> None:
    """Of requests in turn from `period` clients, each client's share is the same."""
    sampler = Sampler(0.1, 1.0)
    taken = [0] * period
    for n in range(1000 * period):
        taken[n % period] += sampler.takes()
    assert min(taken) >= 80
    assert max(taken) <= 120


def test_two_samplers_agree() -> None:
    one, other = Sampler(0.3, 1.0), Sampler(0.3, 1.0)
    assert [one.takes() for _ in range(100)] == [other.takes() for _ in range(100)]
