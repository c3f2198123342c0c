"""The numbers that the data path adds to."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.backends import FrontendCounters, Histogram, RequestCounters
from hermes_lb.backends.counters import MOST_REASONS
from hermes_lb.backends.statistics import add_up

Record = type[RequestCounters] | type[FrontendCounters]


def test_a_value_belongs_to_the_first_bound_not_below_it():
    histogram = Histogram((1.0, 2.0))
    for seconds in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(seconds)
    assert histogram.counts == [2, 2, 1]
    assert histogram.total == 7.5
    assert histogram.count == 5


def test_an_observation_that_is_moved_is_counted_once():
    histogram, shift = Histogram((1.0, 2.0)), Histogram((1.0, 2.0))
    histogram.observe(2.5)
    shift.move(2.5, to=0.5)
    both = histogram + shift
    assert (both.counts, both.total) == ([1, 0, 0], 0.5)


def test_servers_share_no_counters():
    one, other = RequestCounters(), RequestCounters()
    one.responses[2] += 1
    one.latency.observe(0.1)
    assert (sum(other.responses), sum(other.latency.counts)) == (0, 0)


def test_what_came_at_once_and_what_did_not_are_put_together():
    counters = RequestCounters()
    for _ in range(10):
        counters.at_once.observe(0.02)
    counters.latency.observe(9.0)  # a stream that waited 1 s for a server
    counters.time_to_first_byte.observe(1.5)
    counters.late += 1
    counters.waiting.observe(1.0)
    counters.response_shift.move(1.5, to=0.5)
    assert counters.duration.count == counters.first_byte.count == 11
    assert counters.duration.total == pytest.approx(9.2)
    assert counters.queue_wait.counts[0] == 10
    assert (counters.queue_wait.count, counters.queue_wait.total) == (11, 1.0)
    assert counters.response_head.count == 11
    assert counters.response_head.total == pytest.approx(0.7)


# As rows of numbers. Shared memory has doubles, which are exact for integers up to 2**53.
numbers = st.integers(min_value=-(2**40), max_value=2**40)


@pytest.mark.parametrize("record", [RequestCounters, FrontendCounters])
@given(data=st.data())
def test_a_record_survives_its_way_through_shared_memory(record: Record, data: st.DataObject):
    cells = data.draw(st.lists(numbers, min_size=record.WIDTH, max_size=record.WIDTH))
    loaded = record()
    loaded.load(array("d", cells))
    assert loaded.cells() == cells
    # The sums of seconds are the only numbers that are not integers.
    sums = [cell for cell in loaded.cells() if isinstance(cell, float)]
    assert len(sums) == (7 if record is RequestCounters else 0)


@pytest.mark.parametrize("record", [RequestCounters, FrontendCounters])
@given(data=st.data())
def test_the_sum_of_records_is_the_sum_of_their_rows(record: Record, data: st.DataObject):
    row = st.lists(numbers, min_size=record.WIDTH, max_size=record.WIDTH)
    rows = data.draw(st.lists(row, min_size=1, max_size=4))
    together = record()
    together.load(add_up(rows))
    assert together.cells() == [sum(column) for column in zip(*rows, strict=True)]


def test_a_row_has_every_field():
    for record in (RequestCounters(), FrontendCounters()):
        before = record.cells()
        for name in set(type(record).__slots__) - {"refused"}:
            value = getattr(record, name)
            if isinstance(value, Histogram):
                value.observe(0.0)
            elif isinstance(value, list):
                value[0] += 1
            else:
                setattr(record, name, value + 1)
        changed = sum(now != then for now, then in zip(record.cells(), before, strict=True))
        assert changed == len(set(type(record).__slots__) - {"refused"})


def test_loading_keeps_the_lists_that_others_hold():
    counters = RequestCounters()
    responses, counts = counters.responses, counters.latency.counts
    counters.load([1.0] * RequestCounters.WIDTH)
    assert responses is counters.responses
    assert counts is counters.latency.counts
    assert responses == [1] * 6


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        add_up(([0] * FrontendCounters.WIDTH, [0] * (FrontendCounters.WIDTH + 1)))


# Refusals.


def test_refusals_are_counted_by_status_and_reason():
    counters = FrontendCounters()
    for status in (400, 400, 431):
        counters.refuse(status, "too much")
    assert counters.refused == {(400, "too much"): 2, (431, "too much"): 1}


def test_there_are_never_too_many_reasons():
    counters = FrontendCounters()
    for number in range(MOST_REASONS + 5):
        counters.refuse(400, f"reason {number}")
    counters.refuse(400, "reason 0")
    assert len(counters.refused) == MOST_REASONS + 1
    assert counters.refused[400, "other"] == 5
    assert counters.refused[400, "reason 0"] == 2
