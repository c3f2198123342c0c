"""What `make chaos-streams` judges with: would it see a token that is lost, or a second mail?"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.models.scripted import tokens
from bench.chaos_sessions.reading import Event
from bench.chaos_streams.heard import DONE, Heard
from bench.chaos_streams.ledger import Ledger
from bench.chaos_streams.question import MOST_WORDS, answer_to, difference, question
from bench.chaos_streams.verdict import (
    ABORTED,
    LOST,
    ONCE_TWICE,
    REPEATED,
    UNANSWERED,
    UNTRUE,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

ASKED = question("u-1", 5)
SENT = {"send_mail": "sent to ada", "note_set": "0 1 2 3 4"}
UNKNOWN = {**SENT, "send_mail": "unknown: it may have been done"}
ANSWER = answer_to(ASKED, SENT)
TOKENS = tokens(ANSWER)


def test_the_answer_is_the_scripts_and_no_two_of_its_numbers_are_the_same() -> None:
    assert ANSWER == (
        "Let me use send_mail and note_set. Mail to ada: sent to ada. Noted: story is 0 1 2 3 4."
    )
    assert "It is unknown whether send_mail was done" in answer_to(ASKED, UNKNOWN)
    longest = question("u-1", MOST_WORDS)
    note = " ".join(map(str, range(MOST_WORDS)))
    assert answer_to(longest, {**SENT, "note_set": note}).endswith(f" {MOST_WORDS - 1}.")


@pytest.mark.parametrize(
    ("got", "is_whole", "lost", "repeated"),
    [
        (TOKENS, True, 0, 0),
        ([ANSWER], True, 0, 0),
        ([*TOKENS[:5], *TOKENS[6:]], True, len(TOKENS[5]), 0),
        (TOKENS[1:], True, len(TOKENS[0]), 0),
        (TOKENS[:-1], True, len(TOKENS[-1]), 0),
        (TOKENS[:-1], False, 0, 0),
        ([*TOKENS[:4], *TOKENS[5:9]], False, len(TOKENS[4]), 0),
        ([*TOKENS[:6], *TOKENS[3:]], True, 0, len("".join(TOKENS[3:6]))),
        ([*TOKENS, " and more"], True, 0, len(" and more")),
        ([*TOKENS[:6], " "], False, 0, 0),
        ([], True, len(ANSWER), 0),
        ([], False, 0, 0),
    ],
)
def test_what_is_lost_or_repeated_is_counted_in_bytes(
    got: Sequence[str], is_whole: bool, lost: int, repeated: int
) -> None:
    assert difference(got, ANSWER, is_whole=is_whole) == (lost, repeated)


def heard(pieces: Sequence[str] = TOKENS, *, reported: str = ANSWER, end: bool = True) -> Heard:
    turn = Heard("sessions", "u-1", "s-1", ASKED)
    turn.begin("w0")
    for number, piece in enumerate(pieces, 1):
        turn.add(Event(f"7-{number}", "message.delta", json.dumps({"content": piece})))
    if end:
        turn.add(Event("7-999", "done", json.dumps({"content": reported})))
    return turn


def history(results: dict[str, str] = SENT) -> list[dict[str, Any]]:
    parts = ANSWER.partition("Mail")
    return [
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": parts[0]},
        *({"role": "tool", "name": name, "content": text} for name, text in results.items()),
        {"role": "assistant", "content": answer_to(ASKED, results).removeprefix(parts[0])},
    ]


def broken(turn: Heard, messages: list[dict[str, Any]] | None, sent: int = 1) -> set[str]:
    verdict = Verdict()
    verdict.judge(turn, messages, sent)
    return {promise for promise, found in verdict.found.items() if found.count}


def test_a_right_turn_breaks_nothing() -> None:
    assert heard().end == DONE
    assert broken(heard(), history()) == set()
    reported = answer_to(ASKED, UNKNOWN)
    for sent in (0, 1):
        assert broken(heard(tokens(reported), reported=reported), history(UNKNOWN), sent) == set()


def test_a_step_that_begins_again_is_not_a_repetition() -> None:
    turn = heard(TOKENS[:4], end=False)
    turn.add(Event("8-1", "rewind", json.dumps({"id": "7-2"})))
    for number, piece in enumerate(TOKENS[2:], 2):
        turn.add(Event(f"8-{number}", "message.delta", json.dumps({"content": piece})))
    turn.add(Event("8-999", "done", json.dumps({"content": ANSWER})))
    assert broken(turn, history()) == set()


def test_a_gap_is_a_silence_at_a_takeover(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    clock = SimpleNamespace(monotonic=lambda: now, time=lambda: now)
    monkeypatch.setattr("bench.chaos_streams.heard.time", clock)
    turn = Heard("sessions", "u-1", "s-1", ASKED)
    turn.begin("w0")
    silences = [("7-1", 0.9), ("7-2", 0.1), ("8-1", 0.2), ("8-2", 0.9), ("8-3", 1.1), ("", 0.1)]
    for event_id, silence in silences:
        now += silence
        turn.add(Event(event_id, "tool.started", "{}"))
    seen = [(round(gap.seconds, 3), gap.before, gap.after) for gap in turn.gaps]
    assert seen == [(0.2, "7-2", "8-1"), (1.1, "8-2", "8-3")]


def _twice(turn: Heard) -> None:
    turn.add(Event("7-3", "tool.started", "{}"))


def _settled(text: str) -> Callable[[Heard], None]:
    def settle(turn: Heard) -> None:
        turn.end, turn.settled = "cut", text

    return settle


@pytest.mark.parametrize(
    ("turn", "change", "messages", "sent", "promises"),
    [
        (heard(TOKENS[:-1]), None, history(), 1, {LOST}),
        (heard([*TOKENS[:3], *TOKENS]), None, history(), 1, {REPEATED}),
        (heard(), _twice, history(), 1, {REPEATED}),
        (heard(TOKENS[:5], end=False), None, history(), 1, {ABORTED}),
        (heard(TOKENS[:5], end=False), _settled(ANSWER), history(), 1, {ABORTED}),
        (heard(TOKENS[:5], end=False), _settled("another"), history(), 1, {ABORTED, UNTRUE}),
        (heard(), None, history(), 2, {ONCE_TWICE}),
        (heard(), None, history(), 0, {UNTRUE}),
        (heard(reported="another"), None, history(), 1, {UNTRUE}),
        (heard(), None, [*history()[:-1], {"role": "assistant", "content": ""}], 1, {UNTRUE}),
        (heard(), None, history()[:-1], 1, {UNANSWERED}),
        (heard(), None, history()[:2], 0, {UNANSWERED}),
        (heard(), None, None, 1, {UNANSWERED}),
    ],
)
def test_each_broken_promise_is_found(
    turn: Heard,
    change: Callable[[Heard], None] | None,
    messages: list[dict[str, Any]] | None,
    sent: int,
    promises: set[str],
) -> None:
    if change is not None:
        change(turn)
    assert broken(turn, messages, sent) == promises


def test_the_ledger_counts_each_mail(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "mails")
    for uid in ("u-1", "u-2", "u-1"):
        with ledger.path.open("a") as file:
            file.write(json.dumps({"id": "x", "to": "ada", "text": uid}) + "\n")
    assert ledger.sent() == {"u-1": 2, "u-2": 1}
