"""Replies that no Redis gives, as of another server at its address: they cost an operation each."""

from __future__ import annotations

import asyncio
from itertools import count
from random import Random
from typing import TYPE_CHECKING

import pytest

from hermes_lb.turns.ports import StoreAway
from hermes_lb.turns.store.control import Control
from hermes_lb.turns.store.incarnation import Incarnation
from hermes_lb.turns.store.keys import TurnName
from hermes_lb.turns.store.observer import Observer
from hermes_lb.turns.store.stored_journals import StoredJournals
from hermes_lb.turns.store.timing import Timing
from tests.support.waiting import until
from tests.turns.store.rig import Turn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hermes_lb.tasks import Tasks
    from hermes_lb.turns.store.client import StoreClient
    from tests.turns.store.conftest import Connected

#: Replies as a connection begins: scripts may be run, and keys are not evicted.
MAY_RUN = b":1\r\n"
POLICY = b"*2\r\n$16\r\nmaxmemory-policy\r\n$10\r\nnoeviction\r\n"
GARBAGE = [
    b"+OK\r\n", b":1\r\n", b"$-1\r\n", b"*0\r\n", b"*-1\r\n", b"-ERR x\r\n",
    b"-\r\n", b"-MOVED\r\n", b"-MOVED 1 x\r\n", b"-MOVED x y:z\r\n", b"-ASK 5\r\n", b"_\r\n",
    b"\xff\r\n", b"*3\r\n:1\r\n:2\r\n:3\r\n", b"*2\r\n$12\r\nsunsubscribe\r\n$1\r\nx\r\n",
]  # fmt: skip
TIMING = Timing(lease=0.5, beat=0.01, poll=0.01)
TURN = TurnName("a" * 42, "a" * 26, "n", "k", "")


class OddServer:
    """Replies with garbage to everything but the questions as a connection begins."""

    def __init__(self) -> None:
        self._rng = Random(1)
        self.asked = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                self.asked += 1
                is_greeting = b"maxmemory-policy" in data
                writer.write(MAY_RUN + POLICY if is_greeting else self._rng.choice(GARBAGE))
        except OSError:
            pass
        finally:
            writer.close()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"


def never_leave_alone(client: StoreClient) -> None:
    """A second passes with each look at its clock."""
    seconds = count()
    client._clock = lambda: float(next(seconds))


@pytest.fixture
async def odd() -> AsyncIterator[OddServer]:
    server = OddServer()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield server


async def test_operations_end_within_their_patience(odd: OddServer, connected: Connected) -> None:
    client = connected(odd.url, patience=0.02)
    control = Control(client, lambda *woken: None)
    never_leave_alone(client)
    for _ in range(60):
        with pytest.raises(StoreAway):
            await control.release(TURN, b"")


@pytest.mark.parametrize("what", ["beats", "observation", "subscription"])
async def test_work_in_the_background_goes_on(
    odd: OddServer,
    connected: Connected,
    tasks: Tasks,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    monkeypatch.setattr("hermes_lb.turns.store.subscriber._PAUSE", (0.001, 0.001))
    monkeypatch.setattr("hermes_lb.turns.store.subscriber._PING", 0.01)
    client = connected(odd.url, patience=0.02)
    never_leave_alone(client)
    journals = StoredJournals(client)
    if what == "beats":
        beats = Incarnation(client, TIMING, lambda: None)
        work = tasks.spawn(beats.run(), name="beats")
    elif what == "observation":
        observer = Observer(client, TIMING, asyncio.get_running_loop().time)
        observer.is_dead("another")
        work = tasks.spawn(observer.run(), name="observation")
    else:
        work = tasks.spawn(journals.subscriber.listen("x", print, 3600.0), name="subscription")
    before = odd.asked
    await until(lambda: odd.asked > before + 30)
    assert not work.done()
    await journals.close()


async def test_a_journal_keeps_what_is_not_acknowledged(
    odd: OddServer, connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lanes are replaced; no such reply acknowledges anything, or raises."""
    monkeypatch.setattr("hermes_lb.turns.store.writer._PAUSE", (0.001, 0.001))
    problems: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    client = connected(odd.url, patience=0.02)
    never_leave_alone(client)
    journals = StoredJournals(client)
    turn, other = Turn(journals), Turn(journals)
    before = odd.asked
    while odd.asked < before + 60:
        turn.append()
        other.append()
        await asyncio.sleep(0.001)
    assert turn.journal.unacknowledged == len(turn.written)
    assert other.journal.unacknowledged == len(other.written)
    assert problems == []
    await journals.close()
