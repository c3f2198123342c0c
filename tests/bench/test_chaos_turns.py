"""What `make chaos-turns` judges with: would it see a second execution, or a byte that is lost?"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from bench.chaos_sessions.tally import Tally
from bench.chaos_turns.executions import BEGUN, CUT, REFUSED, UNFENCED, Executions
from bench.chaos_turns.executions import DONE as WHOLE
from bench.chaos_turns.heard import DONE, Heard, Segment, Turn
from bench.chaos_turns.script import Question, Reading, answer, answer_as_json, expected
from bench.chaos_turns.verdict import (
    AHEAD,
    CANCELLED,
    FENCED,
    INVARIANTS,
    NO_WAY_BACK,
    NOT_KEPT,
    UNKNOWN,
    Faults,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ADA, BOB = "Bearer ada", "Bearer bob"
STREAM = Question("u-1", words=5)
EVENTS = expected(STREAM, "x1")
CALM = Faults(loses_owners=False, loses_store=False)
STORM = Faults(loses_owners=True, loses_store=True, stopped=[(0.0, 0.1)])


# Bytes.

QUESTIONS = [
    Question("u-1", words=6, has_ids=has_ids, has_comments=has_comments, crlf=crlf, pad=pad)
    for has_ids, has_comments, crlf, pad in itertools.product(
        (True, False), (True, False), (True, False), (0, 40)
    )
]


def as_the_balancer_sends_it(pieces: Sequence[bytes], *, first: int = 1) -> bytes:
    """With an id where there is none, primed, and with a comment of its own."""
    sent = b"id: h1.t.0\n\n" if first == 1 else b""
    for number, piece in enumerate(pieces, first):
        end = b"\r\n" if b"\r\n" in piece else b"\n"
        has_id = b"id: " in piece or piece.startswith(b":")
        sent += (b"" if has_id else b"id: h1.t.%d%s" % (number, end)) + piece + b": resuming\n"
    return sent


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_what_the_balancer_adds_is_no_byte_of_the_backends(question: Question) -> None:
    sent = as_the_balancer_sends_it(answer(question, "x1"))
    whole, by_byte = Reading(), Reading()
    whole.feed(sent)
    for number in range(len(sent)):
        by_byte.feed(sent[number : number + 1])
    assert whole.events == by_byte.events == expected(question, "x1")
    assert whole.last_id == ("x1-6" if question.has_ids else f"h1.t.{len(answer(question, ''))}")
    assert not whole.has_gaps


def test_an_event_that_is_cut_is_none_and_one_without_an_id_is_a_gap() -> None:
    reading = Reading()
    reading.feed(b"id: h1.t.0\n\nid: h1.t.1\ndata: one\n\nid: h1.t.2\ndata: two\n")
    assert (reading.events, reading.last_id, reading.has_gaps) == (
        [b"data: one\n\n"], "h1.t.1", False,
    )  # fmt: skip
    reading.feed(b"\ndata: three\n\n")
    assert (reading.last_id, reading.has_gaps) == ("h1.t.2", True)


# The verdict.


def executed(
    execution: str, begun: float, ended: float | None, *, uid: str = "u-1", how: str = WHOLE,
    **more: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    about = {
        "uid": uid, "execution": execution, "principal": ADA, "session": "", "fence": 0,
        "is_checked": False, **more,
    }  # fmt: skip
    ends = [{"what": how, "at": ended, **about}] if ended is not None else []
    return [{"what": BEGUN, "at": begun, **about}, *ends]


ONE = executed("x1", 1.0, 2.0)


def heard(*segments: Segment, end: str = DONE, bodies: Sequence[bytes] = ()) -> Heard:
    return Heard(end=end, segments=list(segments), bodies=list(bodies))


ALL = heard(Segment(0, EVENTS[:2], False), Segment(2, EVENTS[2:], True))


def judged(
    tmp_path: Path, *lines: dict[str, Any], of: Sequence[Turn], faults: Faults = CALM
) -> Tally:
    file = tmp_path / "executions"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tally = Tally(invariants=INVARIANTS)
    Verdict(tally, Executions.read(file), faults, settle=1.0).judge(of)
    return tally


def turn(*got: Heard, uid: str = "u-1", kind: str = "keyed", **options: Any) -> Turn:
    question = Question(uid, words=5)
    options = {"question": question, "key": "k", **options}
    return Turn(kind, principal=ADA, path="/", heard=list(got), **options)


def broken(tally: Tally) -> set[str]:
    return {each.invariant for each in tally.violations}


def test_a_turn_that_was_executed_once_and_heard_to_its_end_passes(tmp_path: Path) -> None:
    tally = judged(tmp_path, *ONE, of=[turn(ALL, ALL)])
    assert tally.violations == []
    assert (tally.tested["once"], tally.tested["bytes"], tally.tested["ends"]) == (1, 6, 2)
    assert tally.tested["principals"] == 11


@pytest.mark.parametrize(
    "second", [ONE, executed("x2", 3.0, 4.0), executed("x2", 1.5, 1.6, how=CUT)]
)
def test_a_second_execution_breaks_once(tmp_path: Path, second: list[dict[str, Any]]) -> None:
    second = [{**line, "execution": "x2"} for line in second]
    assert broken(judged(tmp_path, *ONE, *second, of=[turn(ALL)])) == {"once"}


def test_a_refusal_is_no_execution(tmp_path: Path) -> None:
    refused = {**ONE[0], "what": REFUSED, "execution": ""}
    assert broken(judged(tmp_path, refused, *ONE, of=[turn(ALL)])) == set()


@pytest.mark.parametrize(
    "segments",
    [
        [Segment(0, EVENTS[:4], True)],  # its end looked like a cut
        [Segment(0, [*EVENTS[:2], *EVENTS[3:]], False)],
        [Segment(0, EVENTS[:2], False), Segment(2, EVENTS[3:], False)],
        [Segment(0, EVENTS[:2], False), Segment(2, EVENTS[1:], False)],
        [Segment(0, expected(STREAM, "x2"), False)],
        [Segment(0, [*EVENTS, EVENTS[-1]], False)],
    ],
)
def test_other_bytes_than_the_backends_break_bytes(tmp_path: Path, segments: list[Segment]) -> None:
    assert broken(judged(tmp_path, *ONE, of=[turn(heard(*segments))])) == {"bytes"}


def test_another_answer_as_json_breaks_bytes(tmp_path: Path) -> None:
    question = Question("u-1", words=5, as_json=True)
    for execution, found in (("x1", set()), ("x2", {"bytes"})):
        got = heard(bodies=[answer_as_json(question, "x1"), answer_as_json(question, execution)])
        assert broken(judged(tmp_path, *ONE, of=[turn(got, question=question)])) == found


@pytest.mark.parametrize(
    ("end", "options", "faults", "is_allowed"),
    [
        (UNKNOWN, {}, CALM, False),
        (UNKNOWN, {}, STORM, True),
        (AHEAD, {}, CALM, False),
        (AHEAD, {}, STORM, True),
        (CANCELLED, {}, STORM, False),
        (CANCELLED, {"is_deleted": True}, CALM, True),
        (NOT_KEPT, {}, CALM, False),
        (NOT_KEPT, {"kind": "big"}, CALM, True),
        (NO_WAY_BACK, {}, STORM, False),
        (NO_WAY_BACK, {"key": ""}, CALM, True),
        ("refused: 503", {}, STORM, False),
        ("refused: 503", {"key": ""}, CALM, True),
        (FENCED, {}, CALM, False),
        (FENCED, {}, STORM, True),
        ("404 not found", {}, STORM, False),
        ("never ended", {}, STORM, False),
    ],
)
def test_ends_that_the_table_allows(
    tmp_path: Path, end: str, options: dict[str, Any], faults: Faults, is_allowed: bool
) -> None:
    got = heard(Segment(0, EVENTS[:2], False), end=end)
    tally = judged(tmp_path, *ONE, of=[turn(got, **options)], faults=faults)
    assert broken(tally) == (set() if is_allowed else {"ends"})


def test_an_answer_that_was_never_executed_breaks_ends(tmp_path: Path) -> None:
    assert "ends" in broken(judged(tmp_path, of=[turn(heard())]))


def test_a_byte_of_another_principal_breaks_principals(tmp_path: Path) -> None:
    theirs = expected(Question("u-2"), "x1")
    tally = judged(tmp_path, *ONE, of=[turn(heard(Segment(0, theirs[:1], False)))])
    assert "principals" in broken(tally)
    ran_as = [{**line, "principal": BOB} for line in ONE]
    assert broken(judged(tmp_path, *ran_as, of=[turn(ALL)])) == {"principals"}


# Sessions.


def pair(
    first: tuple[float, float | None], second: tuple[float, float | None], *,
    how: str = WHOLE, fences: tuple[int, int] = (1, 2), is_checked: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    about = {"session": "s", "is_checked": is_checked}
    return [
        *executed("x1", *first, how=how, fence=fences[0], **about),
        *executed("x2", *second, uid="u-2", fence=fences[1], **about),
    ]


TWO = [turn(), turn(uid="u-2")]


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (pair((1.0, 2.0), (2.0, 3.0)), set()),
        (pair((1.0, 2.0), (3.1, 4.0), how=CUT), set()),
        (pair((1.0, 2.0), (1.5, 3.0)), {"apart"}),
        (pair((1.0, None), (1.5, 3.0)), {"apart"}),
        (pair((1.0, 2.0), (2.5, 3.0), how=CUT), {"apart"}),
        (pair((1.0, 2.0), (2.0, 3.0), is_checked=True), set()),
        (pair((1.0, 2.0), (2.5, 3.0), how=CUT, is_checked=True), set()),
        (pair((1.0, 2.0), (1.5, 3.0), is_checked=True), {"strict"}),
        (pair((1.0, 2.0), (2.0, 3.0), fences=(2, 2)), {"fences"}),
        (pair((1.0, 2.0), (2.0, 3.0), fences=(3, 2), is_checked=True), {"fences"}),
        ([{**ONE[0], "what": UNFENCED}], {"fences"}),
    ],
)
def test_requests_of_a_session(
    tmp_path: Path, lines: list[dict[str, Any]], found: set[str]
) -> None:
    tally = judged(tmp_path, *lines, of=TWO)
    assert broken(tally) == found
    assert tally.tested["fences"] > 0


def test_a_stopped_owner_is_counted_apart(tmp_path: Path) -> None:
    stopped = Faults(loses_owners=True, loses_store=False, stopped=[(1.2, 1.4)])
    tally = judged(tmp_path, *pair((1.0, 2.0), (1.5, 3.0)), of=TWO, faults=stopped)
    assert broken(tally) == set()
    assert tally.figures["pairs with a stopped owner"] == 1
    later = stopped._replace(stopped=[(2.2, 2.4)])
    assert broken(judged(tmp_path, *pair((1.0, 2.0), (1.5, 3.0)), of=TWO, faults=later)) == {
        "apart"
    }


# Takeovers, and leaving.


@pytest.mark.parametrize(
    ("faults", "position", "end", "is_broken"),
    [
        (Faults(loses_owners=True, loses_store=False), 3, UNKNOWN, True),
        (
            Faults(loses_owners=True, loses_store=False),
            1,
            UNKNOWN,
            False,
        ),  # its head was not stored
        (Faults(loses_owners=True, loses_store=True), 3, UNKNOWN, False),
        (Faults(loses_owners=True, loses_store=False), 3, DONE, False),
    ],
)
def test_a_turn_that_can_be_continued_is_not_lost(
    tmp_path: Path, faults: Faults, position: int, end: str, is_broken: bool
) -> None:
    turn = Turn("continued", STREAM, ADA, "/continued/turns", key="k")
    turn.heard = [Heard(end, [Segment(0, EVENTS[:position], False)], position=position)]
    tally = Tally(invariants=INVARIANTS)
    executions = Executions.read(_executed(tmp_path))
    Verdict(tally, executions, faults, settle=1.0).judge([turn])
    assert any(each.invariant == "continued" for each in tally.violations) == is_broken


@pytest.mark.parametrize(("left", "is_broken"), [(1.0, True), (90.0, False), (0.0, False)])
def test_a_turn_that_all_have_left_ends(tmp_path: Path, left: float, is_broken: bool) -> None:
    """Its execution was cut after 100 s."""
    turn = Turn("leaving", STREAM, ADA, "/leaving/turns", left=left)
    tally = Tally(invariants=INVARIANTS)
    executions = Executions.read(_executed(tmp_path, how=CUT, ended=100.0))
    Verdict(tally, executions, CALM, settle=1.0).judge([turn])
    assert any(each.invariant == "leaving" for each in tally.violations) == is_broken


def _executed(folder: Path, *, how: str = WHOLE, ended: float = 2.0) -> Path:
    """One execution of `STREAM`."""
    common = {
        "server": "a", "uid": STREAM.uid, "execution": "x1", "principal": ADA, "session": "",
        "fence": 0, "is_checked": False,
    }  # fmt: skip
    file = folder / "executions"
    lines = [{"what": what, "at": at, **common} for what, at in ((BEGUN, 0.5), (how, ended))]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file
