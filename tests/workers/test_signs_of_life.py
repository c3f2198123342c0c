"""Who is stuck."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hermes_lb.workers.signs_of_life import SignsOfLife

CHILD: Any = SimpleNamespace(pid=4711, number=0, serves=True)


def looking() -> tuple[SignsOfLife, list[float]]:
    """And where the child's sign is."""
    gauges = [1.0]
    block: Any = SimpleNamespace(parts=[SimpleNamespace(gauges=gauges)])
    return SignsOfLife(block), gauges


def test_who_gives_no_sign_in_twenty_looks_is_stuck_and_named_once() -> None:
    signs, _ = looking()
    named = [signs.stuck([CHILD]) for _ in range(50)]
    assert [n for n, found in enumerate(named) if found] == [20]
    assert named[20] == [CHILD]


def test_a_sign_that_comes_just_in_time_begins_it_anew() -> None:
    signs, gauges = looking()
    for _ in range(20):
        assert not signs.stuck([CHILD])
    gauges[0] = 2.0
    for _ in range(20):
        assert not signs.stuck([CHILD])
    assert signs.stuck([CHILD]) == [CHILD]


def test_another_process_with_the_same_part_is_not_taken_for_it() -> None:
    signs, _ = looking()
    for _ in range(20):
        signs.stuck([CHILD])
    successor: Any = SimpleNamespace(pid=4712, number=0, serves=True)
    assert not signs.stuck([successor])
