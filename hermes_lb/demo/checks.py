"""Expectations as functions: facts in, a `Check` out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb.demo.client import Turn
    from hermes_lb.demo.reader import Read


@dataclass(frozen=True, slots=True)
class Check:
    """`text` is the expectation; `expected` and `got` describe a failure."""

    text: str
    held: bool
    expected: str
    got: str

    @property
    def failure(self) -> str:
        return f"{self.text}: expected {self.expected}, got {self.got}"


def _equal(text: str, expected: object, got: object) -> Check:
    return Check(text, expected == got, str(expected), str(got))


def says_who_served(worker: str | None, known: Sequence[str]) -> Check:
    text = "the answer says which worker served it"
    return Check(text, worker in known, f"one of {', '.join(known)}", str(worker))


def same_worker(cookie: str, before: str | None, now: str | None) -> Check:
    return _equal(f"the cookie {cookie} leads back to the same worker", before, now)


def went_on(turn: Turn, before: int, words: int) -> Check:
    """Some tokens had arrived when the worker was killed; the same response has the rest."""
    expected = f"{words} words, {words - before} of them behind the kill"
    got = f"{len(turn.tokens)} words, {len(turn.tokens) - before} of them behind the kill"
    return Check(f"the sentence went on: {expected}", expected == got, expected, got)


def continued_elsewhere(read: Read) -> Check:
    """All words once, some of them by each connection."""
    count = len(read.story)
    rest = count - read.lost_after
    text = f"the other balancer had the rest: {rest} of {count} words, none lost or repeated"
    held = read.words == read.story and 0 < read.lost_after < count
    got = f"{' '.join(read.words)} ({read.lost_after} first)"
    return Check(text, held, " ".join(read.story), got)


def was_asked_once(read: Read) -> Check:
    return _equal("the backend was asked once", 1, read.asked)


def took_over(killed: str, workers: Sequence[str]) -> Check:
    held = len(workers) == 1 and killed not in workers
    text = f"{' and '.join(workers) or 'nobody'} went on with it"
    return Check(text, held, f"one, and not {killed}", str(list(workers)))


def another_worker(killed: str, now: str | None) -> Check:
    held = now is not None and now != killed
    return Check("another worker answered", held, f"anyone but {killed}", str(now))


def answer_contains(wanted: str, turn: Turn) -> Check:
    return Check(
        f'the answer contains "{wanted}"', wanted in turn.answer, wanted, repr(turn.answer)
    )


def is_final(turn: Turn) -> Check:
    return _equal("the turn was finished", True, turn.is_final)


def tools_ran(wanted: Sequence[str], turn: Turn) -> Check:
    names = " and ".join(wanted)
    return _equal(f"the tools ran: {names}", sorted(wanted), sorted(turn.tools))


def tokens_are_the_answer(turn: Turn) -> Check:
    return _equal(
        "the tokens, joined, are the answer", repr(turn.answer), repr("".join(turn.tokens))
    )


def came_one_by_one(turn: Turn, interval: float) -> Check:
    """Tokens were not buffered: they are as far apart as the model made them."""
    least = (len(turn.tokens) - 1) * interval / 2
    return Check(
        f"{len(turn.tokens)} tokens came one by one, over {turn.seconds:.1f} s",
        0 < least <= turn.seconds,
        f"at least {least:.2f} s from the first to the last",
        f"{turn.seconds:.2f} s",
    )


def has_every_turn(turns: Sequence[Turn], messages: Sequence[dict[str, Any]]) -> Check:
    """Each question once and in order, with the answer that the client got."""
    kept: list[list[str]] = []
    for message in messages:
        if message["role"] == "user":
            kept.append([message["content"], ""])
        elif message["role"] == "assistant" and kept:
            kept[-1][1] += message["content"]
    heard = [[turn.question, turn.answer] for turn in turns]
    return _equal(f"all {len(turns)} turns are there, in order, none twice", heard, kept)


def has_no_other_message(turns: Sequence[Turn], messages: Sequence[dict[str, Any]]) -> Check:
    """A turn is a question and an answer; with tools also the step that called them, and their
    results."""
    expected = sum(2 + (1 + len(turn.tools) if turn.tools else 0) for turn in turns)
    return _equal(f"the session holds {expected} messages", expected, len(messages))
