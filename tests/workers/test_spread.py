"""Which worker serves a connection that has been accepted, by the numbers of all."""

from __future__ import annotations

import resource
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import Bind
from hermes_lb.proxy.ports import AcceptLimit
from hermes_lb.tasks import Tasks
from hermes_lb.workers.inbox import Inbox
from hermes_lb.workers.shared_memory import CONNECTIONS, HEARTBEAT, SERVES, SharedMemory
from hermes_lb.workers.spread import ConnectionSpread, receiver
from tests.support.waiting import eventually
from tests.workers.several import FakeLoop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.proxy.ports import Entrance

BURST = 1000  # connections that one worker may pass at once


@pytest.mark.parametrize(
    ("mine", "others", "wanted"),
    [
        (0, [], None),  # alone
        (1000, [], None),
        (0, [0], None),
        (1, [0], None),  # 1 above the share, 1
        (2, [0], 0),
        (16, [16], None),
        (17, [15], None),  # 18 of 33: 1.5 above
        (18, [14], 0),  # 19 of 33: 2.5 above
        (14, [18], None),
        (548, [451], None),  # 549 of 1,000: a tenth above is 550
        (550, [449], 0),
        (8, [8, 6, 10], None),  # of several the share counts, and not the least
        (9, [6, 8, 5], 2),
        (9, [5, 8, 5], 0),
        (9, [20, 9, 9], None),
    ],
)
def test_the_one_with_the_fewest_connections_gets_what_is_above_the_share(
    mine: int, others: list[float], wanted: int | None
) -> None:
    assert receiver(mine, others) == wanted


@pytest.mark.parametrize("workers", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("per_worker", [8, 16, 100])
def test_none_is_a_fifth_above_its_share_even_if_one_accepts_all(
    workers: int, per_worker: int
) -> None:
    held = [0] * workers
    for _ in range(workers * per_worker):
        place = receiver(held[0], held[1:])
        held[0 if place is None else place + 1] += 1
    assert sum(held) == workers * per_worker
    assert max(held) <= 1.2 * per_worker, held


class Listener:
    """Counts the connections that it takes over."""

    def __init__(self, bind: str) -> None:
        self.bind = Bind.model_validate(bind)
        self.taken = 0

    async def adopt(self, sock: socket.socket) -> None:
        self.taken += 1
        sock.close()


class Limit(AcceptLimit):
    """Records the calls."""

    def __init__(self) -> None:
        self.called: list[object] = []

    def guard(self, frontend: Entrance) -> None:
        self.called.append(frontend)

    def forget(self, frontend: Entrance) -> None:
        self.called.append(frontend)

    def acquire(self) -> None:
        self.called.append("acquire")

    def release(self) -> None:
        self.called.append("release")

    def reconfigure(self, most: int) -> None:
        self.called.append(most)


class Worker:
    """A worker's part in the spread. Its clients only have a number."""

    def __init__(self, several: Several, number: int, slot: int, binds: tuple[str, ...]) -> None:
        self.loop = FakeLoop(lambda: several.now)
        self.gauges = several.memory.regions[number].gauges
        self.limit = Limit()
        self.clients: set[object] = set()
        live = SimpleNamespace(gate=self.limit, clients=self.clients)
        context: Any = SimpleNamespace(
            live=live, loop=self.loop, clock=lambda: several.now, tasks=several.tasks
        )
        self.spread = ConnectionSpread(
            context, several.memory, number, several.inboxes, slot, several.slots
        )
        assert live.gate is self.spread
        self.beats(several.now)
        self.listens(*binds)

    def beats(self, now: float) -> None:
        self.gauges[HEARTBEAT] = now

    def listens(self, *binds: str) -> None:
        self.listeners = [Listener(bind) for bind in binds]
        frontend: Any = SimpleNamespace(name="public", listeners=self.listeners)
        self.spread.set_listeners([frontend])

    @property
    def connections(self) -> float:
        return self.gauges[CONNECTIONS]

    def has(self, count: int) -> None:
        """It has accepted this number of connections, whose protocols have been made."""
        while len(self.clients) < count:
            self.clients.add(object())
            self.spread.acquire()

    def accepts(self, sock: socket.socket, *, at: int = 0) -> bool:
        """-> whether it serves the connection itself."""
        send = self.spread.taker(self.listeners[at])
        if send is not None:
            assert send(sock.fileno())
        return send is None

    def reads(self) -> None:
        for read in list(self.loop.readers.values()):
            read()


class Several:
    def __init__(self, slots: int) -> None:
        self.now = 10.0
        self.slots = slots
        self.memory = SharedMemory.create(2 * slots, rows=10)
        self.inboxes = [Inbox.create() for _ in range(slots)]
        self.tasks = Tasks()
        self.workers: list[Worker] = []

    def add(self, *, slot: int, binds: tuple[str, ...] = ("127.0.0.1:80",)) -> Worker:
        self.workers.append(Worker(self, len(self.workers), slot, binds))
        return self.workers[-1]

    @property
    def waiting(self) -> list[int]:
        return [inbox.waiting() for inbox in self.inboxes]


@pytest.fixture
def several() -> Iterator[Several]:
    made = Several(2)
    yield made
    for inbox in made.inboxes:
        inbox.close()


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


async def test_it_is_served_by_the_other_one(several: Several, sock: socket.socket) -> None:
    busy, idle = several.add(slot=0), several.add(slot=1)
    busy.has(10)
    assert idle.accepts(sock)
    assert not busy.accepts(sock)
    assert several.waiting == [0, 1]
    assert idle.connections == 1
    idle.reads()
    assert idle.connections == 2  # it counts before it is set up
    await eventually(lambda: idle.listeners[0].taken == 1)
    assert several.waiting == [0, 0]


def test_what_waits_in_an_inbox_counts(several: Several, sock: socket.socket) -> None:
    busy, idle = several.add(slot=0), several.add(slot=1)
    busy.has(10)
    while not busy.accepts(sock):
        pass
    assert several.waiting[1] == 9
    several.now += 0.01
    assert [idle.accepts(sock) for _ in range(5)] == [True, True, True, True, False]
    assert several.waiting == [1, 9]


@pytest.mark.parametrize(
    ("binds", "slot", "heartbeat"),
    [
        (("127.0.0.1:80",), 1, -1.5),  # it stands still
        (("127.0.0.1:80",), 0, 0.0),  # another generation of the same slot
        (("127.0.0.1:81",), 1, 0.0),  # it has another configuration: before or after a reload
        (("127.0.0.1:80", "127.0.0.1:81"), 1, 0.0),
        ((), 1, 0.0),
    ],
    ids=["stuck", "slot", "address", "more addresses", "none"],
)
def test_a_worker_that_would_not_serve_it_the_same_gets_none(
    several: Several,
    sock: socket.socket,
    binds: tuple[str, ...],
    slot: int,
    heartbeat: float,
) -> None:
    busy, idle = several.add(slot=0), several.add(slot=slot, binds=binds)
    idle.beats(several.now + heartbeat)
    busy.has(10)
    assert busy.accepts(sock)


def test_a_worker_of_a_slot_that_is_unknown_here_gets_none(
    several: Several, sock: socket.socket
) -> None:
    """A new generation may have more slots, and so more inboxes."""
    busy = several.add(slot=0)
    several.inboxes.append(Inbox.create())
    busy.spread._inboxes = several.inboxes[:2]
    several.add(slot=2)
    busy.has(10)
    assert busy.accepts(sock)


def test_other_options_at_the_same_address_are_another_listener(
    several: Several, sock: socket.socket
) -> None:
    busy, idle = several.add(slot=0), several.add(slot=1)
    bind: Any = {"address": "127.0.0.1:80", "proxy_protocol": True}
    idle.listens(bind)
    busy.has(10)
    assert busy.accepts(sock)


async def test_one_that_leaves_is_seen_at_once(several: Several, sock: socket.socket) -> None:
    busy, idle = several.add(slot=0), several.add(slot=1)
    busy.has(10)
    assert not busy.accepts(sock)
    idle.spread.leave()
    assert busy.accepts(sock)
    assert several.waiting == [0, 0]
    await eventually(lambda: idle.listeners[0].taken == 1)  # what had been passed
    assert not idle.loop.readers
    idle.listens("127.0.0.1:80")  # a reload that it has yet to answer
    assert idle.gauges[SERVES] == 0.0


def test_one_that_has_died_is_seen_at_once(several: Several, sock: socket.socket) -> None:
    busy, _ = several.add(slot=0), several.add(slot=1)
    busy.has(10)
    assert not busy.accepts(sock)
    several.memory.clear(1)
    assert busy.accepts(sock)


def test_one_that_leaves_passes_none(several: Several, sock: socket.socket) -> None:
    """Not even to another one that leaves, and publishes the same."""
    busy, idle = several.add(slot=0), several.add(slot=1)
    busy.has(10)
    busy.spread.leave()
    idle.spread.leave()
    several.now += 1.0
    idle.beats(several.now)
    assert busy.accepts(sock)


def test_one_with_another_configuration_does_not_stand_in_the_way(sock: socket.socket) -> None:
    several = Several(3)
    busy, idle = several.add(slot=0), several.add(slot=1)
    several.add(slot=2, binds=("127.0.0.1:81",))
    idle.has(1)
    busy.has(10)
    assert not busy.accepts(sock)
    assert several.waiting == [0, 1, 0]
    for inbox in several.inboxes:
        inbox.close()


async def test_a_connection_that_was_passed_before_a_reload_is_served(
    several: Several, sock: socket.socket
) -> None:
    binds = ("127.0.0.1:80", "127.0.0.1:81")
    busy, idle = (several.add(slot=slot, binds=binds) for slot in range(2))
    busy.has(10)
    assert not busy.accepts(sock, at=1)
    removed = idle.listeners[1]
    idle.listens("127.0.0.1:80")
    idle.reads()
    await eventually(lambda: removed.taken == 1)


def test_short_connections_are_passed_at_a_bounded_rate(
    several: Several, sock: socket.socket
) -> None:
    busy, idle = several.add(slot=0), several.add(slot=1)
    busy.has(10 * BURST)

    def passed() -> int:
        count = 0
        while not busy.accepts(sock):
            several.inboxes[1].refuse_all()
            count += 1
        return count

    assert passed() == BURST
    for seconds, wanted in ((0.5, 5), (3600.0, BURST)):
        several.now += seconds
        idle.beats(several.now)
        assert passed() == wanted


def test_a_worker_without_descriptors_tries_again(several: Several, sock: socket.socket) -> None:
    busy, idle = several.add(slot=0), several.add(slot=1)
    busy.has(10)
    assert not busy.accepts(sock)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        idle.reads()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not idle.loop.readers
    assert several.waiting == [0, 1]
    several.now += 1.0
    idle.loop.turn()
    assert idle.loop.readers


def test_the_slots_that_an_upgrade_has_removed_are_read_too(
    several: Several, sock: socket.socket
) -> None:
    several.inboxes += [Inbox.create(), Inbox.create()]
    assert len(several.add(slot=1).loop.readers) == 2


def test_it_keeps_to_the_limit(several: Several) -> None:
    one = several.add(slot=0)
    frontend: Any = "frontend"
    one.has(1)
    one.clients.clear()
    one.spread.release()
    one.spread.reconfigure(7)
    one.spread.guard(frontend)
    one.spread.forget(frontend)
    assert one.limit.called == ["acquire", "release", 7, "frontend", "frontend"]
    assert one.connections == 0
