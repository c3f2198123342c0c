"""The fleet: handover of channels, starts, failures, replacements, and workers that are alone."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from hermes_lb.control.operator import NotPossible
from hermes_lb.tasks import Tasks
from hermes_lb.workers import crash_loops, upgrade
from hermes_lb.workers import fleet as fleet_module
from hermes_lb.workers.channel import Channel, ChannelClosed
from hermes_lb.workers.child import Child
from hermes_lb.workers.fleet import Fleet
from hermes_lb.workers.inbox import Inbox
from hermes_lb.workers.upgrade import wait_until_between_messages
from tests.support.waiting import eventually
from tests.workers.fake_child import FakeChild, fake_children

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = "x" * 5_000_000


def nowhere() -> tuple[dict[str, Any], list[Any]]:
    """State for a worker without listeners."""
    return {}, []


@contextmanager
def fleet_of_one() -> Iterator[tuple[Fleet, socket.socket]]:
    """Its child is sent a large message, which is not read yet."""
    nothing: Any = SimpleNamespace(slots=1)
    fleet = Fleet("asyncio", nothing, nothing, [], nothing, nothing, about=nowhere, upkeep=nothing)
    ours, theirs = socket.socketpair()
    channel = Channel(ours, lambda message, descriptors: None)
    child: Any = SimpleNamespace(pid=4711, channel=channel)
    fleet.children.append(child)
    channel.send({"do": "servers", "servers": BIG})
    with theirs:
        yield fleet, theirs
    channel.close()


def read_message(sock: socket.socket) -> None:
    size = int.from_bytes(sock.recv(4, socket.MSG_WAITALL), "big")
    sock.recv(2 + size, socket.MSG_WAITALL)


async def test_a_message_is_passed_as_a_whole_before_others_take_over() -> None:
    with fleet_of_one() as (fleet, theirs):
        reading = Tasks().spawn(asyncio.to_thread(read_message, theirs), name="reading")
        await wait_until_between_messages(fleet.children)
        assert not fleet.children[0].channel.is_amid_message
        await reading


async def test_nobody_takes_over_from_who_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "_LISTENS_WITHIN", 0.02)
    refused = pytest.raises(NotPossible, match="worker process 4711 does not listen")
    with fleet_of_one() as (fleet, _), refused:
        await wait_until_between_messages(fleet.children)


def an_empty_fleet(*sockets: socket.socket) -> Fleet:
    """With one slot."""
    of_slot = [(("public", ""), sock) for sock in sockets]
    listening: Any = SimpleNamespace(
        slots=1, groups={}, of_slot=lambda slot, keys=None: of_slot, remove_files=lambda: None
    )
    memory: Any = SimpleNamespace(regions=range(4), fd=0)
    rest: Any = SimpleNamespace(joined=lambda number, pid: None, process_restarts=0)
    return Fleet("asyncio", listening, memory, [], rest, rest, about=nowhere, upkeep=rest)


class Late:
    """A worker whose listeners are given up between its `listen` and its answer."""

    def __init__(self, sock: socket.socket) -> None:
        self.number, self.pid, self.slot = 0, 4711, 0
        self.serves = self.is_retired = self.is_silent = self.has_ended = False
        self.is_alone: bool | None = None
        self.listens: dict[Any, Any] = {}
        self._sock = sock
        self.channel = self

    async def ask(self, message: Any, descriptors: Any = (), *, timeout: float) -> dict[str, Any]:
        self._sock.listen()
        self._sock.shutdown(socket.SHUT_RD)
        return {"urls": []}


async def test_a_worker_has_its_slot_whatever_was_done_to_it_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        fleet = an_empty_fleet(sock)
        monkeypatch.setattr(Child, "start", lambda *_, **__: Late(sock))
        await fleet.start(0)
        assert fleet.is_serving
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


class Told:
    """Worker `number` gets a SIGTERM while it starts."""

    started: ClassVar[list[Told]] = []

    def __init__(self, number: int, slot: int, heard: Any) -> None:
        self.pid, self.number, self.slot = 4711 + number, number, slot
        self.is_retired = self.serves = self.is_silent = self.has_ended = False
        self.is_alone: bool | None = None
        self.listens: dict[Any, Any] = {}
        self.channel = self
        self._heard = heard
        self.started.append(self)

    @classmethod
    def start(cls, loop: str, *, number: int, slot: int, heard: Any, ended: Any) -> Told:
        return cls(number, slot, heard)

    async def ask(self, message: Any, descriptors: Any = (), *, timeout: float) -> dict[str, Any]:
        if len(self.started) == 2:
            self._heard(self, {"do": "leaving"})
        return {"urls": []}

    def retire(self, timeout: float) -> None:
        self.is_retired = True


async def test_a_slot_is_not_left_empty_when_the_new_process_was_asked_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The old one serves at that moment, and is drained then."""
    monkeypatch.setattr(fleet_module, "Child", Told)
    monkeypatch.setattr(fleet_module, "_GROUP_SIGNAL_S", 3600.0)  # no periodic check helps
    fleet = an_empty_fleet()
    await fleet.start(0)
    assert await fleet.replace(0, 1.0)
    await eventually(lambda: [child.number for child in fleet.in_slot(0)] == [2])
    await fleet._tasks.cancel_all()


class Killed(Told):
    """A worker whose channel closes a little before its exit is noticed."""

    started: ClassVar[list[Told]] = []

    async def ask(self, message: Any, descriptors: Any = (), *, timeout: float) -> dict[str, Any]:
        if message["do"] == "start":
            return {"urls": []}
        raise ChannelClosed

    async def wait(self) -> None:
        self.has_ended = True


async def test_who_is_killed_during_a_reload_is_no_problem_of_the_reload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fleet_module, "Child", Killed)
    fleet = an_empty_fleet()
    await fleet.start(0)
    assert await fleet.reconfigure(1.0) == []
    assert len(Killed.started) == 1  # the next one starts as after any crash


async def test_who_waits_at_a_slot_is_not_refused_because_one_start_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A single kill may be accidental; two failures in a row count."""
    fleet = an_empty_fleet()
    failed_slots: list[list[int]] = []  # at each start

    class Failing(Told):
        started: ClassVar[list[Told]] = []

        @classmethod
        def start(cls, loop: str, **about: Any) -> Told:
            failed_slots.append(fleet.failed_slots)
            if len(failed_slots) <= 2:
                raise OSError(0, "no")
            return super().start(loop, **about)

    monkeypatch.setattr(fleet_module, "Child", Failing)
    monkeypatch.setattr(crash_loops, "_FIRST_PAUSE", 0.0)
    fleet.refill()
    await eventually(lambda: bool(fleet.in_slot(0)) and fleet.children[0].serves)
    assert failed_slots == [[], [], [0]]
    assert fleet.failed_slots == []
    await fleet._tasks.cancel_all()


# Alone or not.


def a_fleet_of(slots: int) -> Fleet:
    listening: Any = SimpleNamespace(
        slots=slots, groups={}, of_slot=lambda slot, keys=None: [], remove_files=lambda: None
    )
    memory: Any = SimpleNamespace(regions=range(9), fd=0)
    rest: Any = SimpleNamespace(
        joined=lambda number, pid: None, left=lambda number, rows: None, rows={}, process_restarts=0
    )
    return Fleet("asyncio", listening, memory, [], rest, rest, about=nowhere, upkeep=rest)


def told_alone(child: FakeChild) -> list[bool]:
    """The values of `is_alone` that it was sent, in order."""
    return [message["is_alone"] for message in child.told if "is_alone" in message]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[FakeChild]:
    return fake_children(monkeypatch)


async def test_a_worker_knows_that_it_is_not_alone_before_the_next_one_starts(
    started: list[FakeChild], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = a_fleet_of(1)
    await fleet.start(0)
    first = started[0]
    assert told_alone(first) == [True]
    known: list[bool | None] = []

    async def ask(*about: Any, **more: Any) -> dict[str, Any]:
        known.append(len(started) == 1)
        return await FakeChild.ask(first, *about, **more)

    monkeypatch.setattr(first, "ask", ask)
    assert await fleet.replace(0, 1.0)
    assert known == [True]
    assert [told_alone(child) for child in started] == [[True, False], [False]]
    assert await fleet.replace(0, 1.0)  # known values are not sent again
    assert [told_alone(child) for child in started] == [[True, False], [False], [False]]
    first.ends()
    assert told_alone(started[2]) == [False]
    started[1].ends()
    assert told_alone(started[2]) == [False, True]
    await fleet.stop()


async def test_who_starts_is_notified_that_it_is_alone_when_it_has(
    started: list[FakeChild], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one may end first."""
    fleet = a_fleet_of(1)
    await fleet.start(0)

    async def ask(
        child: FakeChild, message: dict[str, Any], descriptors: Any = (), *, timeout: float
    ) -> dict[str, Any]:
        child.told.append(message)
        if child is not started[0]:
            started[0].retire(0.0)
            assert told_alone(child) == [False]
        return {"urls": []}

    monkeypatch.setattr(FakeChild, "ask", ask)
    assert await fleet.replace(0, 1.0)
    assert told_alone(started[1]) == [False, True]
    await fleet.stop()


async def test_after_a_crash_the_next_one_is_alone(started: list[FakeChild]) -> None:
    fleet = a_fleet_of(1)
    await fleet.start(0)
    started[0].kill()
    await eventually(lambda: len(started) == 2 and started[1].serves)
    assert told_alone(started[1]) == [True]
    await fleet.stop()


async def test_of_several_none_is_alone(started: list[FakeChild]) -> None:
    fleet = a_fleet_of(2)
    await fleet.start_all()
    assert [told_alone(child) for child in started] == [[False], [False]]
    started[0].is_retired = True
    started[0].ends()
    assert told_alone(started[1]) == [False]
    await fleet.stop()


async def test_a_worker_gets_the_inboxes_of_all_slots(started: list[FakeChild]) -> None:
    fleet = a_fleet_of(2)
    fleet._inboxes = inboxes = [Inbox.create(), Inbox.create()]
    await fleet.start_all()
    for slot, child in enumerate(sorted(started, key=lambda child: child.slot)):
        assert [m["inboxes"] for m in child.told if "inboxes" in m] == [[slot, 2]]
        assert child.given == [fd for inbox in inboxes for fd in inbox.descriptors]
    await fleet.stop()
    for inbox in inboxes:
        inbox.close()


async def test_connections_on_their_way_to_a_slot_that_is_given_up_are_reset(
    started: list[FakeChild],
) -> None:
    fleet = a_fleet_of(2)
    fleet._inboxes = inboxes = [Inbox.create(), Inbox.create()]
    for inbox in inboxes:
        assert inbox.send(b"listener", 0)
    fleet._failed.add(1)
    fleet.slots_changed()
    assert [inbox.waiting() for inbox in inboxes] == [1, 0]
    for inbox in inboxes:
        inbox.close()


async def test_who_serves_in_a_slot_that_is_no_more_is_not_replaced(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade to fewer workers has not retired it yet."""
    fleet = an_empty_fleet()
    monkeypatch.setattr(fleet, "_gathered", SimpleNamespace(left=lambda number, rows: None))
    monkeypatch.setattr(fleet, "_layout", SimpleNamespace(rows={}))
    monkeypatch.setattr(fleet, "slots_changed", lambda: None)
    child: Any = SimpleNamespace(
        pid=4711, slot=1, number=1, serves=True, is_retired=False, is_alone=False,
        exit_status=-9, end_in_words="by signal 9",
    )  # fmt: skip
    fleet.children.append(child)
    fleet._ended(child)
    assert "4711 has ended by signal 9: what it was finishing is cut" in caplog.text
    assert not fleet.failed_slots
    assert not fleet._refilling


async def test_of_two_that_start_at_once_none_is_alone(started: list[FakeChild]) -> None:
    fleet, tasks = a_fleet_of(1), Tasks()
    await fleet.start(0)
    old = started[0]
    old.is_retired = True
    old.answers.clear()
    starts = [tasks.spawn(fleet.start(0), name="start") for _ in range(2)]
    await eventually(lambda: told_alone(old) == [True, False])
    old.ends()
    old.answers.set()
    await asyncio.gather(*starts)
    assert [told_alone(child) for child in started[1:]] == [[False], [False]]
    await fleet.stop()


async def test_who_ends_while_another_one_starts_leaves_nobody_alone(
    started: list[FakeChild],
) -> None:
    """After an upgrade: `old` is still draining from before it."""
    fleet = a_fleet_of(1)
    await fleet.start(0)
    await fleet.start(0)
    old, serving = started
    old.retire(1.0)
    for child in started:
        child.is_alone = None  # as for adopted workers
        child.told.clear()
    serving.answers.clear()
    starting = Tasks().spawn(fleet.start(0), name="start")
    await eventually(lambda: told_alone(serving) == [False])
    old.ends()
    serving.answers.set()
    await starting
    assert [told_alone(child) for child in started[1:]] == [[False], [False]]
    serving.ends()
    assert told_alone(started[2]) == [False, True]
    await fleet.stop()


async def test_a_second_start_waits_for_the_answer_that_the_first_one_waits_for(
    started: list[FakeChild],
) -> None:
    fleet, tasks = a_fleet_of(1), Tasks()
    await fleet.start(0)
    first = started[0]
    first.answers.clear()
    starts = [tasks.spawn(fleet.start(0), name="start") for _ in range(2)]
    await eventually(lambda: told_alone(first) == [True, False])
    assert started == [first]
    first.answers.set()
    await asyncio.gather(*starts)
    assert [told_alone(child) for child in started] == [[True, False], [False], [False]]
    await fleet.stop()


async def test_the_next_one_does_not_wait_long_for_who_is_ending(started: list[FakeChild]) -> None:
    """It may not answer any more, and no worker accepts clients meanwhile."""
    fleet = a_fleet_of(1)
    await fleet.start(0)
    started[0].is_retired = True
    await fleet.start(0)
    assert told_alone(started[0]) == [True, False]
    assert started[0].patience[-1] < 1.0
    await fleet.stop()


async def test_the_next_one_does_not_wait_long_for_who_has_answered_nothing_before(
    started: list[FakeChild], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = a_fleet_of(1)
    await fleet.start(0)
    first = started[0]

    async def ask(
        message: dict[str, Any], descriptors: Any = (), *, timeout: float
    ) -> dict[str, Any]:
        answer = await FakeChild.ask(first, message, descriptors, timeout=timeout)
        if message["do"] == "reconfigure":
            raise TimeoutError
        return answer

    monkeypatch.setattr(first, "ask", ask)
    [problem] = await fleet.reconfigure(1.0)
    assert problem.endswith("it does not answer")
    assert told_alone(first) == [True, False]
    assert first.patience[-1] < 1.0
    await fleet.stop()


@pytest.mark.parametrize(
    ("error", "have_answered"), [(None, True), (ChannelClosed(), True), (TimeoutError(), False)]
)
async def test_all_have_answered_but_those_that_are_there_and_have_not(
    started: list[FakeChild],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None,
    have_answered: bool,
) -> None:
    fleet = a_fleet_of(2)
    await fleet.start_all()

    async def ask(message: Any, descriptors: Any = (), *, timeout: float) -> dict[str, Any]:
        assert timeout == 0.5
        if error is not None:
            raise error
        return {}

    monkeypatch.setattr(started[1], "ask", ask)
    assert await fleet.all_answer({"do": "servers"}, 0.5) is have_answered
    assert started[0].told[-1] == {"do": "servers"}
    await fleet.stop()
