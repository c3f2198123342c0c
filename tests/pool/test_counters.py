"""The integers that the data path adds to."""

from __future__ import annotations

from hermes_lb.pool import Histogram, RequestCounters


def test_a_value_belongs_to_the_first_bound_not_below_it():
    histogram = Histogram((1.0, 2.0))
    for seconds in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(seconds)
    assert histogram.counts == [2, 2, 1]
    assert histogram.total == 7.5


def test_servers_share_no_counters():
    one, other = RequestCounters(), RequestCounters()
    one.responses[2] += 1
    one.latency.observe(0.1)
    assert (sum(other.responses), sum(other.latency.counts)) == (0, 0)
