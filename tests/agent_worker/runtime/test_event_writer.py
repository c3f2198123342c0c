"""A turn's events: to the log, in order and batched, and then to the client."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from agent_worker.errors import StoreUnavailable
from agent_worker.runtime import event_writer as writer_module
from agent_worker.runtime.event_writer import EventWriter
from agent_worker.tasks import cancel_and_wait, spawn
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from agent_worker.sessions import Event


class Log:
    """Accepts a write once `gate` is set; raises each of `failures` first."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_writing = asyncio.Event()
        self.writes: list[list[str]] = []
        self.failures: list[Exception] = []

    async def append(self, events: Sequence[Event]) -> None:
        assert not self.is_writing.is_set(), "two writes at once"
        self.is_writing.set()
        try:
            await self.gate.wait()
            if self.failures:
                raise self.failures.pop()
            self.writes.append(ids(events))
        finally:
            self.is_writing.clear()

    @property
    def ids(self) -> list[str]:
        return [event_id for write in self.writes for event_id in write]


class Desk:
    """The writer of fence 7 between a log and a client; its `run` is a task."""

    def __init__(self) -> None:
        self.log = Log()
        self.client: list[Event] = []
        self.writer = EventWriter(7, self.log.append, self._to_client)
        self.running: asyncio.Task[None] | None = None
        self.reads = asyncio.Event()
        self.reads.set()

    async def _to_client(self, event: Event) -> None:
        await self.reads.wait()
        self.client.append(event)

    def start(self) -> asyncio.Task[None]:
        self.running = spawn(self.writer.run(), name="writer")
        return self.running

    async def emit(self, *numbers: int) -> None:
        for number in numbers:
            await self.writer.emit("message.delta", {"n": number})

    async def write_waiting(self) -> None:
        async with self.writer.writing() as events:
            await self.log.append(events)

    @property
    def seen(self) -> list[int]:
        return [json.loads(event.data)["n"] for event in self.client]


def ids(events: Sequence[Event]) -> list[str]:
    return [event.id for event in events]


def numbered(first: int, last: int) -> list[str]:
    return [f"7-{seq}" for seq in range(first, last + 1)]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    if desk.running is not None:
        await cancel_and_wait(desk.running)


async def test_an_event_is_in_the_log_before_the_client_sees_it(desk: Desk) -> None:
    desk.log.gate.clear()
    desk.start()
    await desk.emit(1)
    await desk.log.is_writing.wait()
    assert desk.client == []
    desk.log.gate.set()
    await until(lambda: desk.client)
    assert desk.log.writes == [["7-1"]]
    (event,) = desk.client
    assert (event.id, event.name, event.data) == ("7-1", "message.delta", '{"n":1}')


async def test_events_that_come_during_a_write_go_together_with_the_next(desk: Desk) -> None:
    desk.log.gate.clear()
    desk.start()
    await desk.emit(1)
    await desk.log.is_writing.wait()
    await desk.emit(2, 3, 4)
    desk.log.gate.set()
    await until(lambda: len(desk.client) == 4)
    assert desk.log.writes == [["7-1"], ["7-2", "7-3", "7-4"]]
    assert desk.seen == [1, 2, 3, 4]


async def test_an_event_that_comes_alone_goes_at_once(desk: Desk) -> None:
    desk.start()
    for number in range(1, 4):
        await desk.emit(number)
        await until(lambda n=number: len(desk.client) == n)
    assert desk.log.writes == [["7-1"], ["7-2"], ["7-3"]]


async def test_without_events_nothing_is_written(desk: Desk) -> None:
    desk.start()
    await desk.emit(1)
    async with desk.writer.writing() as events:
        # `run` has been woken for it, but another write includes it.
        desk.log.writes.append(ids(events))
    await desk.emit(2)
    await until(lambda: len(desk.client) == 2)
    assert desk.log.writes == [["7-1"], ["7-2"]]


async def test_a_slow_client_gets_all_in_order_while_more_comes(desk: Desk) -> None:
    desk.reads.clear()
    desk.start()
    await desk.emit(1, 2)
    await until(lambda: desk.log.writes)
    await desk.emit(3)
    desk.reads.set()
    await until(lambda: len(desk.client) == 3)
    assert desk.seen == [1, 2, 3]
    assert desk.log.ids == numbered(1, 3)


async def test_a_write_of_its_own_waits_for_the_one_on_its_way(desk: Desk) -> None:
    desk.log.gate.clear()
    desk.start()
    await desk.emit(1)
    await desk.log.is_writing.wait()
    await desk.emit(2)
    own = spawn(desk.write_waiting(), name="own write")
    desk.log.gate.set()
    await own
    await until(lambda: len(desk.client) == 2)
    assert desk.log.ids == numbered(1, 2)
    assert desk.seen == [1, 2]


async def test_the_model_waits_at_the_bound_until_the_log_has_taken_some(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_MAX_PENDING", 3)
    desk.log.gate.clear()
    desk.start()
    await desk.emit(1)
    await desk.log.is_writing.wait()
    model = spawn(desk.emit(2, 3, 4, 5, 6), name="model")
    await until(lambda: len(desk.writer._pending) == 3)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(desk.writer._pending) == 3
    assert not model.done()
    desk.log.gate.set()
    await model
    await until(lambda: len(desk.client) == 6)
    assert desk.log.writes[:2] == [["7-1"], ["7-2", "7-3", "7-4"]]
    assert desk.seen == [1, 2, 3, 4, 5, 6]


async def test_a_client_that_does_not_read_holds_up_the_model_at_the_bound(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_MAX_PENDING", 3)
    desk.reads.clear()
    desk.start()
    await desk.emit(1)
    await until(lambda: desk.log.writes)
    model = spawn(desk.emit(2, 3, 4, 5), name="model")
    await until(lambda: len(desk.writer._pending) == 3)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not model.done()
    desk.reads.set()
    await model
    await until(lambda: len(desk.client) == 5)


async def test_a_write_that_fails_keeps_its_events_before_those_that_came(desk: Desk) -> None:
    desk.log.failures = [StoreUnavailable()]
    desk.log.gate.clear()
    running = desk.start()
    await desk.emit(1, 2)
    await desk.log.is_writing.wait()
    await desk.emit(3)
    desk.log.gate.set()
    with pytest.raises(StoreUnavailable):
        await running
    assert (desk.log.writes, desk.client) == ([], [])
    await desk.write_waiting()
    assert desk.log.writes == [numbered(1, 3)]
    assert desk.seen == [1, 2, 3]


async def test_a_write_that_is_cancelled_keeps_its_events(desk: Desk) -> None:
    desk.log.gate.clear()
    running = desk.start()
    await desk.emit(1)
    await desk.log.is_writing.wait()
    await cancel_and_wait(running)
    desk.log.gate.set()
    await desk.write_waiting()
    assert desk.log.writes == [["7-1"]]
    assert desk.seen == [1]


async def test_a_failed_write_does_not_free_the_room_that_its_events_take(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_MAX_PENDING", 2)
    desk.log.failures = [StoreUnavailable()]
    await desk.emit(1, 2)
    with pytest.raises(StoreUnavailable):
        await desk.write_waiting()
    model = spawn(desk.emit(3), name="model")
    for _ in range(10):
        await asyncio.sleep(0)
    assert not model.done()
    await desk.write_waiting()
    await model
    assert desk.seen == [1, 2]


async def test_the_last_event_goes_behind_all_that_waits(desk: Desk) -> None:
    await desk.emit(1)
    async with desk.writer.writing() as events:
        await desk.emit(2)
        desk.writer.append_last(events, "done", {"n": 3})
        await desk.log.append(events)
    assert desk.log.writes == [numbered(1, 3)]
    assert desk.seen == [1, 2, 3]
    assert desk.client[-1].name == "done"
    # No event is left to follow it.
    await desk.writer.deliver_rest()
    assert desk.seen == [1, 2, 3]


async def test_what_the_log_has_but_the_client_has_not_is_delivered_at_the_end(
    desk: Desk,
) -> None:
    """The commit was done, and its reply cancelled."""
    await desk.emit(1)
    with contextlib.suppress(asyncio.CancelledError):
        async with desk.writer.writing() as events:
            desk.writer.append_last(events, "done", {"n": 2})
            await desk.log.append(events)
            raise asyncio.CancelledError
    assert desk.client == []
    await desk.writer.deliver_rest()
    assert desk.seen == [1, 2]
    await desk.writer.deliver_rest()
    assert desk.seen == [1, 2]


async def test_a_delivery_that_was_cut_off_goes_on_where_it_was(desk: Desk) -> None:
    """The commit has succeeded, the client is slow, and the turn is cancelled meanwhile."""
    sending = asyncio.Event()

    async def slow(event: Event) -> None:
        desk.client.append(event)
        if event.id == "7-2" and not sending.is_set():
            sending.set()
            await asyncio.Event().wait()

    desk.writer = EventWriter(7, desk.log.append, slow)
    await desk.emit(1, 2, 3, 4)
    committing = spawn(desk.write_waiting(), name="commit")
    await sending.wait()
    await cancel_and_wait(committing)
    await desk.writer.deliver_rest()
    assert desk.log.writes == [numbered(1, 4)]
    assert desk.seen == [1, 2, 3, 4]


async def test_what_a_cut_off_delivery_left_goes_out_before_the_last_event(desk: Desk) -> None:
    desk.reads.clear()
    await desk.emit(1, 2)
    writing = spawn(desk.write_waiting(), name="write")
    await until(lambda: desk.log.writes)
    await cancel_and_wait(writing)
    desk.reads.set()
    async with desk.writer.writing() as events:
        desk.writer.append_last(events, "error", {"n": 3})
        await desk.log.append(events)
    # The first was in transit: whether it has arrived is unknown, and it is not repeated.
    assert desk.seen == [2, 3]


async def test_a_client_that_left_ends_the_writer(desk: Desk) -> None:
    async def gone(event: Event) -> None:
        raise ConnectionResetError

    writer = EventWriter(7, desk.log.append, gone)
    running = spawn(writer.run(), name="writer")
    await writer.emit("message.delta", {"n": 1})
    with pytest.raises(ConnectionResetError):
        await running
    assert desk.log.writes == [["7-1"]]


async def test_what_is_reported_to_one_client_is_not_in_the_log(desk: Desk) -> None:
    await desk.writer.send_unlogged("message.delta", {"n": 1}, event_id="6-9")
    await desk.writer.send_unlogged("error", {"n": 2})
    await desk.emit(3)
    await desk.write_waiting()
    assert ids(desk.client) == ["6-9", "", "7-1"]
    assert desk.log.writes == [["7-1"]]
