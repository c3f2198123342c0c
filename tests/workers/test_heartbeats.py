"""Detection of stuck workers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hermes_lb.observe.usage import Usage
from hermes_lb.workers import heartbeats
from hermes_lb.workers.heartbeats import Heartbeats

CHILD: Any = SimpleNamespace(pid=4711, number=0, serves=True)


def looking() -> tuple[Heartbeats, list[float]]:
    """A detector, and the cell with the child's heartbeat."""
    gauges = [1.0]
    memory: Any = SimpleNamespace(regions=[SimpleNamespace(gauges=gauges)])
    return Heartbeats(memory), gauges


def test_who_gives_no_sign_in_twenty_looks_is_stuck_and_named_once() -> None:
    signs, _ = looking()
    named = [signs.stuck([CHILD]) for _ in range(50)]
    assert [n for n, found in enumerate(named) if found] == [20]
    assert named[20] == [CHILD]


def test_a_sign_that_comes_just_in_time_begins_it_again() -> None:
    signs, gauges = looking()
    for _ in range(20):
        assert not signs.stuck([CHILD])
    gauges[0] = 2.0
    for _ in range(20):
        assert not signs.stuck([CHILD])
    assert signs.stuck([CHILD]) == [CHILD]


def test_another_process_with_the_same_region_is_not_taken_for_it() -> None:
    signs, _ = looking()
    for _ in range(20):
        signs.stuck([CHILD])
    successor: Any = SimpleNamespace(pid=4712, number=0, serves=True)
    assert not signs.stuck([successor])


@pytest.mark.parametrize("cpu_seconds", [0.0, 0.01])
def test_one_that_hangs_at_its_start_is_stuck_even_before_its_first_tick(
    monkeypatch: pytest.MonkeyPatch, cpu_seconds: float
) -> None:
    signs, gauges = looking()
    gauges[0] = 0.0
    starting: Any = SimpleNamespace(pid=4711, number=0, serves=False)
    monkeypatch.setattr(heartbeats, "usage_of", lambda pid: Usage(cpu_seconds=cpu_seconds))
    named = [signs.stuck([starting]) for _ in range(50)]
    assert [n for n, found in enumerate(named) if found] == [20]


def test_one_that_starts_and_whose_use_of_the_processor_is_unknown_is_not_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signs, gauges = looking()
    gauges[0] = 0.0
    starting: Any = SimpleNamespace(pid=4711, number=0, serves=False)
    monkeypatch.setattr(heartbeats, "usage_of", lambda pid: None)
    assert not any(signs.stuck([starting]) for _ in range(50))
