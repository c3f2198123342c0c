"""Recordings are merged, saved and compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.phases.__main__ import main
from tests.phases.recording import Recording, State, Transition, compare, compare_tests

if TYPE_CHECKING:
    from pathlib import Path

DIAL, AWAIT = State("C DIAL", "absolute connect"), State("H AWAIT", "absolute server")
DATA, IDLE = State("D DATA", "idle server"), State("IDLE", "absolute keep_alive")
DIALLED = Transition(DIAL, "dialled", AWAIT, "")
ANSWERED = Transition(AWAIT, "response head", DATA, "")
ENDED = Transition(DATA, "response data", IDLE, "--")


def recorded(**tests: list[Transition]) -> Recording:
    """One run of these tests."""
    recording = Recording()
    for test, transitions in tests.items():
        recording.tests.add(test)
        for transition in transitions:
            recording.add(transition, test)
    return recording


def same(one: Recording, other: Recording) -> bool:
    return one.dumps() == other.dumps()


def test_a_file_has_all_of_it() -> None:
    recording = recorded(one=[DIALLED, ENDED], two=[DIALLED], three=[])
    read = Recording.loads(recording.dumps())
    assert same(read, recording)
    assert read.tests == {"one", "two", "three"}
    assert read.transitions[DIALLED].tests == {"one", "two"}
    assert read.transitions[ENDED].count == 1


def test_the_order_of_the_tests_does_not_matter() -> None:
    one = recorded(one=[DIALLED, ENDED], two=[ANSWERED])
    assert same(one, recorded(two=[ANSWERED], one=[ENDED, DIALLED]))


def test_workers_add_up_to_one_run() -> None:
    whole = recorded(one=[DIALLED], two=[DIALLED, ENDED])
    part = recorded(one=[DIALLED])
    part.merge(recorded(two=[DIALLED, ENDED]), same_run=True)
    assert same(part, whole)


def test_what_only_some_runs_have_is_not_missing() -> None:
    old = recorded(one=[DIALLED, ENDED])
    old.merge(recorded(one=[DIALLED, ANSWERED]), same_run=False)
    assert compare(old, recorded(one=[])) == ({}, {DIALLED: "one"}, {ANSWERED: "one", ENDED: "one"})


def test_what_is_new_and_what_is_missing() -> None:
    old, new = recorded(a=[DIALLED], b=[ENDED]), recorded(a=[ANSWERED], b=[ENDED])
    assert compare(old, new) == ({ANSWERED: "a"}, {DIALLED: "a"}, {})
    assert compare_tests(old, new) == [f"+ a: {ANSWERED}", f"- a: {DIALLED}"]


def test_what_moved_to_another_test_shows_in_a_comparison_by_test() -> None:
    old, new = recorded(a=[DIALLED], b=[ENDED]), recorded(a=[ENDED], b=[DIALLED])
    assert compare(old, new) == ({}, {}, {})
    assert len(compare_tests(old, new)) == 4


def test_only_tests_that_both_have_run_are_compared() -> None:
    old, new = recorded(a=[DIALLED], b=[ENDED]), recorded(a=[DIALLED], c=[ANSWERED])
    assert compare(old, new) == ({}, {}, {})
    assert compare_tests(old, new) == []


@pytest.mark.parametrize(
    ("letters", "timeouts", "text"),
    [
        (False, False, "C DIAL [absolute connect]  dialled  ->  H AWAIT [absolute server]"),
        (True, False, "C [absolute connect]  dialled  ->  H [absolute server]"),
        (False, True, "C DIAL [connect]  dialled  ->  H AWAIT [server]"),
    ],
)
def test_details_can_be_left_out(letters: bool, timeouts: bool, text: str) -> None:
    assert str(DIALLED.simplified(letters=letters, timeouts=timeouts)) == text


def test_a_difference_is_shown_with_a_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(tmp_path / name) for name in ("old", "new")]
    (tmp_path / "old").write_text(recorded(a=[DIALLED], b=[ENDED]).dumps())
    (tmp_path / "new").write_text(recorded(a=[ANSWERED], b=[ENDED]).dumps())
    assert main(["diff", *paths]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "new: 1", f"  {ANSWERED}", "      a",
        "missing: 1", f"  {DIALLED}", "      a",
        "unstable: 0",
        "tests: 2 and 2, 2 in both",
    ]  # fmt: skip
    assert main(["diff", paths[0], paths[0]]) == 0
    assert main(["merge", paths[1], *paths]) == 0
    assert Recording.load(tmp_path / "new").runs == 2
