"""The last requests that ended badly."""

from __future__ import annotations

import json
from typing import Any

from hermes_lb.observe import recent
from hermes_lb.observe.recent import KEPT, REQUEST_MAX, Abort, Recent
from tests.observe.records import a_head, a_record


def abort(**changed: Any) -> Abort:
    return recent.abort(a_record(**changed), at=1_764_079_795.0071)


def test_it_is_fit_for_json() -> None:
    made = abort(request=a_head(target=b"/" + b"x" * 1000), server="", total=1.5)
    assert json.loads(json.dumps(made)) == made
    assert (made["at"], made["duration_ms"]) == (1_764_079_795.007, 1500)
    assert (made["backend"], made["server"]) == ("be", None)
    assert len(made["request"]) == REQUEST_MAX


def test_a_status_that_was_never_sent_is_the_logs() -> None:
    assert [abort(status=status)["status"] for status in (0, 200, 502)] == [-1, 200, 502]


def test_those_after_a_number_come_oldest_first() -> None:
    recent = Recent()
    for status in (1, 2, 3):
        recent.add(abort(status=status))
    assert [one["status"] for one in recent.since()] == [1, 2, 3]
    assert [one["status"] for one in recent.since(2)] == [3]
    assert recent.since(recent.last) == []


def test_only_the_last_are_kept_and_numbers_go_on() -> None:
    recent = Recent()
    for status in range(KEPT + 10):
        recent.add(abort(status=status))
    kept = recent.since()
    assert [one["number"] for one in kept] == list(range(11, KEPT + 11))
    assert repr(recent) == f"<Recent {KEPT} of {KEPT + 10}>"


def test_one_that_is_handed_on_gets_a_number_of_its_new_place() -> None:
    here, there = Recent(), Recent()
    there.add(abort(status=1))
    here.add(abort(status=2))
    for one in here.since():
        there.add(one)
    assert [(one["status"], one["number"]) for one in there.since()] == [(1, 1), (2, 2)]
    assert here.since()[0]["number"] == 1


def test_a_listener_is_notified_of_each() -> None:
    told: list[Abort] = []
    recent = Recent(on_add=told.append)
    recent.add(abort(status=7))
    assert told == recent.since()
