from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.lab.pace import Pace


def test_work_takes_its_time_while_nothing_changes() -> None:
    assert Pace().after(3.0, 2.0) == 5.0


def test_half_the_speed_takes_twice_as_long() -> None:
    pace = Pace([(10.0, 0.5)])
    assert pace.after(8.0, 1.0) == 9.0
    assert pace.after(8.0, 3.0) == 12.0
    assert pace.after(20.0, 1.0) == 22.0


def test_nothing_is_done_in_a_pause() -> None:
    pace = Pace([(10.0, 0.0), (15.0, 1.0)])
    assert pace.after(9.0, 1.0) == 10.0
    assert pace.after(9.0, 2.0) == 16.0
    assert pace.after(12.0, 1.0) == 16.0
    assert pace.after(12.0, 0.0) == 12.0


def test_a_pause_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="must resume"):
        Pace([(10.0, 0.0)])


changes = st.lists(
    st.tuples(st.floats(0.1, 100.0), st.sampled_from([0.0, 0.25, 1.0, 3.0])),
    max_size=6,
    unique_by=lambda change: change[0],
)


@given(changes=changes, now=st.floats(0.0, 120.0), work=st.floats(0.001, 50.0))
def test_what_is_done_until_the_end_is_the_work(
    changes: list[tuple[float, float]], now: float, work: float
) -> None:
    timeline = [(0.0, 1.0), *sorted(changes), (200.0, 1.0)]
    end = Pace(timeline[1:]).after(now, work)
    done = 0.0
    for (start, speed), (stop, _) in zip(timeline, [*timeline[1:], (1e9, 0.0)], strict=True):
        done += speed * max(0.0, min(stop, end) - max(start, now))
    assert done == pytest.approx(work, rel=1e-6, abs=1e-6)
