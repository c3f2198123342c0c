"""Batches that the store may not have, over lost connections and failovers, in random schedules."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from hermes_lb.turns.store.outbox import Outbox

if TYPE_CHECKING:
    from hermes_lb.turns.store.outbox import OutBatch


@dataclass
class Store:
    """What lua/append.lua does."""

    last: int = 0
    begins: int = 0
    batches: list[OutBatch] = field(default_factory=list)

    def append(self, batch: OutBatch) -> int:
        before, last, data = batch
        if last <= self.last:
            return self.begins
        if not data:
            self.batches.clear()
            self.begins = last
        elif before != self.last:
            return -2 - self.last
        else:
            self.batches.append(batch)
        self.last = last
        return self.begins

    def lose(self, count: int) -> None:
        """A failover: a replica has less."""
        for _ in range(min(count, len(self.batches))):
            self.last, _, _ = self.batches.pop()

    @property
    def data(self) -> bytes:
        return b"".join(data for _, _, data in self.batches)


class Sender:
    """The journal and the writer: sends, and passes on replies, by the steps of a test."""

    def __init__(self, *, has_failover: bool = True) -> None:
        self.store = Store()
        self.outbox = Outbox(has_failover)
        self.last = 0
        self.now = 0.0
        self.written: dict[int, bytes] = {}
        self._in_flight: list[OutBatch] = []
        self._replies: list[int | None] = []

    def append(self, events: int) -> None:
        first = self.last + 1
        self.last += events
        data = [b"<%d>" % number for number in range(first, self.last + 1)]
        self.written.update(zip(range(first, self.last + 1), data, strict=True))
        self.outbox.put(first - 1, self.last, b"".join(data))

    def send(self) -> None:
        self._in_flight += self.outbox.unsent()

    def execute(self, count: int) -> None:
        """The store executes the first commands that are in flight."""
        for batch in self._in_flight[:count]:
            self._replies.append(self.store.append(batch))
        del self._in_flight[:count]

    def reply(self, count: int) -> None:
        for reply in self._replies[:count]:
            self._take(reply)
        del self._replies[:count]

    def cut(self) -> None:
        """The connection is lost, with all replies."""
        due = len(self._replies) + len(self._in_flight)
        self._replies.clear()
        self._in_flight.clear()
        for _ in range(due):
            self._take(None)

    def drain(self) -> None:
        for _ in range(20):
            self.send()
            self.execute(10**6)
            self.reply(10**6)
        assert not self.outbox

    def _take(self, reply: int | None) -> None:
        if reply is None:
            self.outbox.failed()
        elif reply < 0:
            self.outbox.behind(-2 - reply)
        else:
            self.outbox.acknowledged(self.now)
        if self.outbox.is_to_repeat:
            self.outbox.repeat(self.last)


def check(sender: Sender) -> None:
    """The store has the owner's bytes behind its window's beginning, without a hole."""
    store = sender.store
    assert store.last == sender.last
    kept = range(store.begins + 1, store.last + 1)
    assert store.data == b"".join(sender.written[number] for number in kept)


def test_batches_arrive_once_over_a_lost_connection() -> None:
    sender = Sender()
    sender.append(2)
    sender.append(1)
    sender.send()
    sender.execute(1)
    sender.cut()
    sender.append(3)
    sender.drain()
    check(sender)
    assert (sender.store.begins, sender.store.last) == (0, 6)


def test_what_is_in_flight_is_not_sent_again() -> None:
    sender = Sender()
    sender.append(1)
    sender.send()
    sender.append(1)
    sender.send()
    assert sender._in_flight == [(0, 1, b"<1>"), (1, 2, b"<2>")]


def test_what_a_failover_lost_is_sent_again() -> None:
    sender = Sender()
    for _ in range(5):
        sender.append(2)
        sender.drain()
    sender.store.lose(3)
    sender.append(1)
    sender.drain()
    check(sender)
    assert sender.store.begins == 0


def test_what_is_not_kept_any_more_is_a_gap() -> None:
    sender = Sender()
    for _ in range(5):
        sender.append(2)
        sender.drain()
        sender.now += 1.5
    sender.store.lose(4)  # of which two are kept
    sender.append(1)
    sender.drain()
    check(sender)
    assert sender.store.begins == 6


def test_without_a_failover_nothing_is_kept() -> None:
    sender = Sender(has_failover=False)
    sender.append(2)
    sender.drain()
    sender.store.lose(1)
    sender.append(1)
    sender.drain()
    check(sender)
    assert sender.store.begins == 2


def test_a_loss_that_the_end_finds_is_mended() -> None:
    sender = Sender()
    sender.append(2)
    sender.append(2)
    sender.drain()
    sender.store.lose(1)
    sender.outbox.lose_behind(sender.store.last, sender.last)
    sender.drain()
    check(sender)
    assert sender.store.begins == 0
    sender.now += 10.0
    sender.outbox.tidy(sender.now)
    sender.store.lose(1)
    sender.outbox.lose_behind(sender.store.last, sender.last)
    sender.drain()
    check(sender)
    assert sender.store.begins == sender.last


def test_what_is_given_up_is_not_sent_any_more() -> None:
    sender = Sender()
    sender.append(1)
    sender.send()  # in flight, and lost
    sender.append(1)
    sender.outbox.give_up(sender.last)
    sender.append(1)
    sender.cut()
    sender.send()
    assert sender._in_flight == [(2, 2, b""), (2, 3, b"<3>")]
    sender.drain()
    check(sender)
    assert sender.store.begins == 2


def test_replies_of_a_journal_that_was_given_away_are_ignored() -> None:
    sender = Sender()
    sender.append(1)
    sender.append(1)
    sender.send()
    sender.outbox.clear()
    assert not sender.outbox
    assert sender.outbox.acknowledged(sender.now) is None
    sender.outbox.failed()
    assert not sender.outbox.unsent()


def test_what_is_kept_is_bounded() -> None:
    sender = Sender()
    outbox = sender.outbox
    for number in range(100):
        outbox.put(number, number + 1, bytes(64 * 1024))
        outbox.unsent()
        outbox.acknowledged(sender.now)
    assert outbox._kept is not None
    assert [last for _, (_, last, _) in outbox._kept] == [97, 98, 99, 100]


@pytest.mark.parametrize("seed", range(300))
def test_random_schedules(seed: int) -> None:
    rng = random.Random(seed)
    sender = Sender(has_failover=rng.random() < 0.8)
    loses = rng.random() < 0.6
    for _ in range(200):
        match rng.randrange(9):
            case 0 | 1 | 2:
                sender.append(rng.randint(1, 3))
            case 3 | 4:
                sender.send()
            case 5:
                sender.execute(rng.randint(0, 4))
            case 6:
                sender.reply(rng.randint(0, 4))
            case 7 if rng.random() < 0.4:
                sender.cut()
            case 8 if rng.random() < 0.2:
                if loses and rng.random() < 0.7:
                    sender.cut()
                    sender.store.lose(rng.randint(1, 5))
                else:
                    sender.outbox.give_up(sender.last)
            case _:
                sender.now += rng.random()
    sender.cut()
    sender.drain()
    # The end of the journal finds a loss that no append has found.
    if sender.store.last != sender.last:
        sender.outbox.lose_behind(sender.store.last, sender.last)
        sender.drain()
    check(sender)
