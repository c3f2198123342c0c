"""More operations at once than a store answers within the patience for one: they are slow."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import hiredis
import pytest

from hermes_lb.turns.ports import StoreAway
from hermes_lb.turns.store import client as module
from hermes_lb.turns.store.in_flight import InFlight
from hermes_lb.turns.store.scripts import script_of
from tests.support.waiting import until
from tests.turns.store.test_garbage import MAY_RUN, POLICY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hermes_lb.tasks import Tasks
    from hermes_lb.turns.store.client import StoreClient
    from tests.turns.store.conftest import Connected

SCRIPT = script_of("return 1")


class HeldServer:
    """Replies to a command when `answer` says so, with the command's last argument."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[bytes] = []  # last arguments, of all commands
        self._held: list[asyncio.StreamWriter] = []
        self._answered = 0

    @property
    def held(self) -> int:
        return len(self._held)

    def answer(self, count: int = 1_000_000) -> None:
        """The oldest ones."""
        held, self._held = self._held[:count], self._held[count:]
        for writer in held:
            last = self.asked[self._answered]
            self._answered += 1
            writer.write(b"$%d\r\n%b\r\n" % (len(last), last))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        with suppress(OSError):
            while data := await reader.read(65_536):
                parser.feed(data)
                while (words := parser.gets()) is not False:
                    if words[0] == b"CONFIG":
                        writer.write(POLICY)
                    elif words[0] == b"EVAL" and len(words) == 3:  # without keys
                        writer.write(MAY_RUN)
                    else:
                        self.asked.append(words[-1])
                        self._held.append(writer)
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[HeldServer]:
    held = HeldServer()
    listening = await asyncio.start_server(held.serve, "127.0.0.1", 0)
    held.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield held


def _client(connected: Connected, server: HeldServer, most: int, **options: Any) -> StoreClient:
    client = connected(f"redis://127.0.0.1:{server.port}", **options)
    client._in_flight = InFlight(most)
    return client


async def test_a_burst_is_slow_and_not_refused(
    server: HeldServer, connected: Connected, tasks: Tasks
) -> None:
    """The patience counts from when an operation is sent: 12 rounds take longer than that."""
    client = _client(connected, server, 10, patience=1.0)
    burst = [
        tasks.spawn(client.run(SCRIPT, ["k"], [number], is_new=True), name="one of a burst")
        for number in range(120)
    ]
    for answered in range(0, 120, 10):
        await until(lambda: server.held == 10)
        assert len(server.asked) == answered + 10
        await asyncio.sleep(0.1)
        server.answer()
    replies = await asyncio.gather(*burst)
    assert replies == [b"%d" % number for number in range(120)]
    assert client._in_flight.waiting == 0


async def test_a_client_has_256_operations_under_way(
    server: HeldServer, connected: Connected, tasks: Tasks
) -> None:
    client = connected(f"redis://127.0.0.1:{server.port}", patience=60.0)
    burst = [tasks.spawn(client.run(SCRIPT, ["k"], [number]), name="one") for number in range(300)]
    await until(lambda: server.held == 256)
    assert client._in_flight.waiting == 300 - 256
    server.answer()
    await until(lambda: server.held == 300 - 256)
    server.answer()
    assert await asyncio.gather(*burst) == [b"%d" % number for number in range(300)]


async def test_turns_that_have_begun_go_first(
    server: HeldServer, connected: Connected, tasks: Tasks
) -> None:
    client = _client(connected, server, 1)

    def ask(what: str) -> None:
        tasks.spawn(client.run(SCRIPT, ["k"], [what], is_new=what == "begin"), name=what)

    for what in ("begin", "begin", "begin", "end", "beat"):
        ask(what)
    for _ in range(5):
        await until(lambda: server.held == 1)
        server.answer()
    assert server.asked == [b"begin", b"end", b"beat", b"begin", b"begin"]


async def test_a_store_that_is_busy_for_too_long(
    server: HeldServer, connected: Connected, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not away: nothing else is refused. Its reply is awaited."""
    monkeypatch.setattr(module, "_BUSY", 0.01)
    client = _client(connected, server, 1)
    first = tasks.spawn(client.run(SCRIPT, ["k"], ["first"]), name="first")
    await until(lambda: server.held == 1)
    with pytest.raises(StoreAway, match="it is busy"):
        await client.run(SCRIPT, ["k"], ["second"])
    assert client.is_reachable
    server.answer()
    assert await first == b"first"
    third = tasks.spawn(client.run(SCRIPT, ["k"], ["third"]), name="third")
    await until(lambda: server.held == 1)
    server.answer()
    assert await third == b"third"
    assert server.asked == [b"first", b"third"]


async def test_what_waits_fails_with_a_store_that_has_gone_away(
    server: HeldServer, connected: Connected, tasks: Tasks
) -> None:
    client = _client(connected, server, 1, patience=0.2)
    client._clock = lambda: 0.0  # it is left alone until the end
    burst = [
        tasks.spawn(client.run(SCRIPT, ["k"], [number]), name="one of a burst")
        for number in range(50)
    ]
    failed = await asyncio.gather(*burst, return_exceptions=True)
    assert [type(each) for each in failed] == [StoreAway] * 50
    assert server.asked == [b"0"]  # the others were never sent
    client._clock = lambda: 1.0
    assert client.is_reachable
    assert client._in_flight.waiting == 0


async def test_places_of_those_that_give_up(tasks: Tasks) -> None:
    """One that is let in while it gives up lets the next one in."""
    line = InFlight(1)
    await line.enter(10.0, is_new=False)
    waiting = [tasks.spawn(line.enter(10.0, is_new=False), name="place") for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    line.leave()  # the second one is let in
    waiting[1].cancel()
    await asyncio.gather(*waiting[:2], return_exceptions=True)
    await waiting[2]
    line.leave()
    await line.enter(0.0, is_new=True)
    with pytest.raises(TimeoutError):
        await line.enter(0.01, is_new=True)


async def test_a_server_that_answers_others_is_not_away(
    server: HeldServer, connected: Connected, tasks: Tasks
) -> None:
    """The last operations take longer than their patience, with replies to others meanwhile."""
    client = _client(connected, server, 100, patience=1.5)
    burst = [
        tasks.spawn(client.run(SCRIPT, ["k"], [number]), name="one of a burst")
        for number in range(10)
    ]
    for _ in range(10):
        await until(lambda: server.held > 0)
        await asyncio.sleep(0.2)
        server.answer(1)
    assert await asyncio.gather(*burst) == [b"%d" % number for number in range(10)]
    assert len(server.asked) == 10  # none was sent again


async def test_a_server_that_answers_others_for_ever(
    server: HeldServer, connected: Connected, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PERIODS", 2)
    client = _client(connected, server, 100, patience=1.0)
    burst = [
        tasks.spawn(client.run(SCRIPT, ["k"], [number]), name="one of a burst")
        for number in range(40)
    ]
    last = burst[-1]
    while not last.done():
        await until(lambda: server.held > 0)
        await asyncio.sleep(0.1)
        server.answer(1)
    with pytest.raises(StoreAway, match="it answers others"):
        await last
    assert client.is_reachable
