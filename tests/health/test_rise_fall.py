"""`RiseFall` against a model that counts results in a row, and HAProxy's table by example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.health.rise_fall import RiseFall


class InARow:
    """What `rise` and `fall` mean to a user: this number of opposite results in a row."""

    def __init__(self, rise: int, fall: int, up: bool) -> None:
        self.rise, self.fall, self.is_up = rise, fall, up
        self.opposite = fall - 1 if up else 0  # at the start one failure is enough

    def add(self, passed: bool) -> None:
        if passed == self.is_up:
            self.opposite = 0
            return
        self.opposite += 1
        if self.opposite == (self.rise if passed else self.fall):
            self.is_up = passed
            self.opposite = 0


@given(
    rise=st.integers(1, 6),
    fall=st.integers(1, 6),
    up=st.booleans(),
    results=st.lists(st.booleans(), max_size=60),
)
def test_it_counts_results_in_a_row(rise: int, fall: int, up: bool, results: list[bool]) -> None:
    state, model = RiseFall(rise, fall, up=up), InARow(rise, fall, up)
    assert state.is_up == model.is_up
    for passed in results:
        (state.passed if passed else state.failed)()
        model.add(passed)
        assert state.is_up == model.is_up
        assert 0 <= state.value <= rise + fall - 1
        is_settled = model.opposite == 0
        assert (state.value in (0, state.top)) == is_settled


@pytest.mark.parametrize(
    ("results", "values"),
    [
        ("+", [4]),  # the start: `rise`, and a pass jumps to the top
        ("-", [0]),  # ... where one failure takes it down
        ("+---", [4, 3, 2, 0]),  # `fall` failures in a row
        ("+--+-", [4, 3, 2, 4, 3]),  # a pass restarts the count
        ("-++", [0, 1, 4]),  # `rise` passes in a row
        ("-+-++", [0, 1, 0, 1, 4]),  # a failure restarts the count
        ("++--------", [4, 4, 3, 2, 0, 0, 0, 0, 0, 0]),  # it stays within its bounds
    ],
)
def test_haproxys_transitions_for_rise_2_and_fall_3(results: str, values: list[int]) -> None:
    state = RiseFall(2, 3)
    seen = []
    for result in results:
        (state.passed if result == "+" else state.failed)()
        seen.append(state.value)
    assert seen == values


def test_started_down_it_needs_all_of_rise() -> None:
    state = RiseFall(3, 2, up=False)
    ups = []
    for _ in range(3):
        state.passed()
        ups.append(state.is_up)
    assert ups == [False, False, True]


@pytest.mark.parametrize(("value", "seconds"), [(0, 20.0), (1, 1.0), (2, 1.0), (3, 1.0), (4, 5.0)])
def test_the_interval_goes_by_how_sure_the_verdict_is(value: int, seconds: float) -> None:
    state = RiseFall(2, 3)
    state.value = value
    assert state.interval(5.0, 1.0, 20.0) == seconds
    assert state.interval(5.0, None, None) == 5.0


@pytest.mark.parametrize(("rise", "fall"), [(0, 1), (1, 0), (-1, 3)])
def test_rise_and_fall_are_at_least_one(rise: int, fall: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RiseFall(rise, fall)


def test_repr_tells_the_state() -> None:
    assert repr(RiseFall(2, 3)) == "<RiseFall up, 2 of 0 to 4, up from 2>"
    assert repr(RiseFall(2, 3, up=False)) == "<RiseFall down, 0 of 0 to 4, up from 2>"
