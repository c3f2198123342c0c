"""The demo's checks: what passes and what fails."""

from __future__ import annotations

from typing import Any

import pytest

from hermes_lb.demo import checks
from hermes_lb.demo.client import Turn
from hermes_lb.demo.reader import Read


def a_turn(question: str, *tokens: str, tools: tuple[str, ...] = ()) -> Turn:
    times = [0.1 * i for i in range(len(tokens))]
    return Turn(question, "agent1", "".join(tokens), list(tokens), times, list(tools), True)


TURNS = [a_turn("a?", "A"), a_turn("b?", "Let me. ", "B", tools=("clock", "calculator"))]
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "a?"},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "b?"},
    {"role": "assistant", "content": "Let me. ", "tool_calls": [{}, {}]},
    {"role": "tool", "content": "1"},
    {"role": "tool", "content": "2"},
    {"role": "assistant", "content": "B"},
]


def test_a_conversation_that_is_intact() -> None:
    assert checks.has_every_turn(TURNS, MESSAGES).held
    assert checks.has_no_other_message(TURNS, MESSAGES).held


@pytest.mark.parametrize(
    "messages",
    [MESSAGES[2:], MESSAGES[:-1], MESSAGES[:2] + MESSAGES, MESSAGES[2:] + MESSAGES[:2], []],
    ids=["lost first", "lost answer", "twice", "out of order", "empty"],
)
def test_a_conversation_that_is_not(messages: list[dict[str, Any]]) -> None:
    assert not checks.has_every_turn(TURNS, messages).held


def test_a_result_that_is_there_twice() -> None:
    check = checks.has_no_other_message(TURNS, [*MESSAGES, MESSAGES[4]])
    assert check.failure == "the session holds 7 messages: expected 7, got 8"


def test_tokens_that_were_held_back() -> None:
    turn = a_turn("?", "a", "b", "c")
    assert checks.came_one_by_one(turn, 0.1).held
    check = checks.came_one_by_one(turn, 0.5)
    assert not check.held
    assert (check.expected, check.got) == ("at least 0.50 s from the first to the last", "0.20 s")
    assert not checks.came_one_by_one(a_turn("?"), 0.1).held, "no tokens at all"


def test_a_sentence_goes_on_only_if_words_came_behind_the_kill() -> None:
    turn = a_turn("?", "a", "b", "c")
    assert checks.went_on(turn, before=1, words=3).held
    assert not checks.went_on(turn, before=3, words=4).held, "cut there"
    assert not checks.went_on(turn, before=1, words=2).held, "a word too many"


def test_who_went_on_with_it() -> None:
    assert checks.took_over("a", ["b"]).text == "b went on with it"
    assert checks.took_over("a", ["b"]).held
    for workers in ([], ["a"], ["b", "c"]):
        assert not checks.took_over("a", workers).held


def test_who_served() -> None:
    assert checks.says_who_served("a", ["a", "b"]).held
    assert checks.says_who_served(None, ["a", "b"]).got == "None"
    assert checks.another_worker("a", "b").held
    assert not checks.another_worker("a", "a").held
    assert not checks.another_worker("a", None).held
    assert not checks.same_worker("SERVERID=a", "a", "b").held


def test_a_story_from_two_balancers_is_whole_and_told_once() -> None:
    story = ["a", "b", "c"]
    assert checks.continued_elsewhere(Read(["a", "b", "c"], 1, story)).held
    for words, lost_after in (("abb", 2), ("ac", 1), ("abc", 0), ("abc", 3), ("abcc", 2)):
        assert not checks.continued_elsewhere(Read(list(words), lost_after, story)).held
    assert checks.was_asked_once(Read(asked=1)).held
    assert not checks.was_asked_once(Read(asked=2)).held
