"""Reasons not to read, and the queue of those that have had their share, without an event loop."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.transport.endpoint import FULL, PEER, SHARE, UNREAD, VERDICT, Endpoint
from hermes_lb.transport.run_queue import LARGE_READ, RunQueue

pytestmark = pytest.mark.pure_only("a compiled class has no interpreted subclass")

REASONS = (PEER, FULL, SHARE, VERDICT, UNREAD)


class Wire:
    """A transport that may only be paused while it reads, and the other way round."""

    def __init__(self) -> None:
        self.is_reading = True
        self.is_gone = False

    def is_closing(self) -> bool:
        return self.is_gone

    def pause_reading(self) -> None:
        assert self.is_reading
        assert not self.is_gone
        self.is_reading = False

    def resume_reading(self) -> None:
        assert not self.is_reading
        assert not self.is_gone
        self.is_reading = True


class Source(Endpoint):
    """A connection with a number of parts that are not parsed."""

    def __init__(self, parts: int = 0, *, fails: bool = False) -> None:
        super().__init__()
        self.wire = Wire()
        self.transport: Any = self.wire
        self.parts = parts
        self.fails = fails

    @property
    def behind(self) -> int:
        return self.parts

    def go_on(self) -> None:
        if self.fails:
            raise ZeroDivisionError("a bug")
        self.parts -= 1

    def abort(self) -> None:
        self.wire.is_gone = True


class Loop:
    """Runs what was asked for once a `turn`."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.queue = RunQueue(self)  # type: ignore[arg-type]

    def call_soon(self, callback: Any) -> None:
        self.asked.append(callback)

    def turn(self) -> None:
        asked, self.asked = self.asked, []
        assert len(asked) <= 1
        for callback in asked:
            callback()

    def turns_until_idle(self) -> int:
        turns = 0
        while self.asked:
            turns += 1
            self.turn()
        return turns


@pytest.fixture
def loop() -> Loop:
    return Loop()


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([*REASONS, PEER | FULL]))))
def test_no_reason_ends_another_one(steps: list[tuple[bool, int]]) -> None:
    source = Source()
    reasons = set()
    for pauses, step in steps:
        parts = {reason for reason in REASONS if step & reason}
        if pauses:
            reasons |= parts
            source.pause_for(step)
        else:
            reasons -= parts
            source.resume_from(step)
        assert source.wire.is_reading is not bool(reasons)
        assert source.has_had_its_share is (SHARE in reasons)


def test_a_transport_that_closes_is_left_alone() -> None:
    source = Source()
    source.pause_for(FULL)
    source.wire.is_gone = True
    source.resume_from(FULL)
    source.pause_reading()
    source.resume_reading()


def test_a_large_read_is_a_share(loop: Loop) -> None:
    source = Source()
    loop.queue.received(source, LARGE_READ - 1)
    assert source.wire.is_reading
    loop.queue.received(source, LARGE_READ)
    assert not source.wire.is_reading
    loop.turn()
    assert source.wire.is_reading
    assert not loop.asked
    assert len(loop.queue) == 0


def test_what_is_behind_is_parsed_in_parts_and_nothing_is_read_meanwhile(loop: Loop) -> None:
    source = Source(parts=3)
    loop.queue.received(source, 10)
    for left in (2, 1):
        loop.turn()
        assert (source.parts, source.wire.is_reading) == (left, False)
    loop.turn()
    assert (source.parts, source.wire.is_reading) == (0, True)
    assert not loop.asked


def test_who_is_in_the_queue_is_in_it_once(loop: Loop) -> None:
    source = Source(parts=1)
    for _ in range(3):
        loop.queue.put_off(source)
    assert len(loop.queue) == 1
    assert loop.turns_until_idle() == 1


def test_a_crowd_has_a_bounded_share_too_and_goes_on_in_turn(loop: Loop) -> None:
    crowd = [Source(parts=5) for _ in range(20)]
    large = Source()
    for source in crowd:
        loop.queue.put_off(source)
    loop.queue.put_off(large)
    before = 100
    while before:
        loop.turn()
        assert large.wire.is_reading  # it only had to wait for another iteration
        left = sum(source.parts for source in crowd)
        assert 0 < before - left <= 8
        parts = [source.parts for source in crowd]
        assert max(parts) - min(parts) <= 1
        before = left
    assert all(source.wire.is_reading for source in crowd)
    assert not loop.asked


def test_a_crowd_of_bulk_transfers_reads_a_few_at_a_time_and_in_turn(loop: Loop) -> None:
    crowd = [Source() for _ in range(20)]
    parsing = Source(parts=2)
    for source in [*crowd, parsing]:
        loop.queue.put_off(source)
    last_read = dict.fromkeys(crowd, -1)
    for turn in range(50):
        loop.turn()
        reading = [source for source in crowd if source.wire.is_reading]
        assert len(reading) == 8
        for source in reading:
            assert turn - last_read[source] <= 3  # 20 of them, 8 at a time
            last_read[source] = turn
            loop.queue.received(source, LARGE_READ)
    assert not parsing.parts  # it has its own share beside them


def test_a_bug_costs_one_connection(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Source(parts=1, fails=True), Source(parts=2)
    loop.queue.put_off(bad)
    loop.queue.put_off(good)
    with caplog.at_level(logging.CRITICAL, "hermes_lb"):
        loop.turns_until_idle()
    assert bad.wire.is_gone
    assert good.wire.is_reading
    assert len(loop.queue) == 0


@pytest.mark.parametrize("seed", range(20))
def test_in_any_order_all_read_on_in_the_end(loop: Loop, seed: int) -> None:
    """Other reasons come and go while a connection waits for its next share."""
    rng = random.Random(seed)
    sources = [Source() for _ in range(6)]
    others = (PEER, FULL, VERDICT)
    for _ in range(300):
        source = rng.choice(sources)
        step = rng.random()
        if step < 0.3:
            if source.wire.is_reading:
                source.parts = rng.choice([0, 0, 1, 4])
                loop.queue.received(source, rng.choice([10, LARGE_READ]))
        elif step < 0.5:
            source.pause_for(rng.choice(others))
        elif step < 0.7:
            source.resume_from(rng.choice(others))
        else:
            loop.turn()
        for source in sources:
            assert not (source.behind and source.wire.is_reading)
        assert len(loop.queue) == sum(source.has_had_its_share for source in sources)
    loop.turns_until_idle()
    for source in sources:
        source.resume_from(PEER | FULL | VERDICT)
    assert all(source.wire.is_reading and not source.parts for source in sources)
