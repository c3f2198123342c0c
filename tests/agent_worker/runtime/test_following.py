"""Following a turn's events in the log costs one read for each notification."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.runtime.orphans import Orphans
from agent_worker.runtime.tail import Tail
from agent_worker.runtime.turn_takeover import FollowRequest, TurnTakeover
from agent_worker.tasks import cancel_and_wait, spawn
from tests.agent_worker.sessions.memory import MemoryBackend, event_log
from tests.support.agent.harness import Harness
from tests.support.agent.runtime import PausedEngine, speech
from tests.support.agent.sessions import ME, open_store
from tests.support.waiting import turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent_worker.sessions import Event


class Followed:
    """A turn that says "one", "two" after `gate`, and then waits; and a follower of its log."""

    def __init__(self, way: str) -> None:
        backend = MemoryBackend()
        self.store = open_store(backend)
        self.gate = asyncio.Event()
        steps = [*speech("one"), self.gate, *speech("two"), None]
        self.worker = Harness(backend, self.store, PausedEngine(steps))
        self.reads = 0
        self.got: list[str] = []
        self._way = way
        self._tasks: list[asyncio.Task[Any]] = []
        self._count_reads("page" if way == "session" else "of_turn")

    async def begin(self) -> None:
        self._sid = await self.store.create(ME, {})
        self._tasks.append(spawn(self.worker.turn(self._sid, "go"), name="turn"))
        await until(self.worker.text)

    def follow(self) -> None:
        self._tasks.append(spawn(self._read(self._events()), name="follower"))

    async def close(self) -> None:
        await cancel_and_wait(*self._tasks)

    def _events(self) -> AsyncIterator[Event | None]:
        running, notifier = self.worker.turns, self.worker.notifier
        [turn] = running._running.values()
        if self._way == "turn":
            asked = FollowRequest(self._sid, ME, turn=turn.name, after=None)
            return TurnTakeover(self.store, running, notifier).follow(asked)
        tail = Tail(self.store, notifier, Orphans(self.store, running), running.holders)
        return tail.follow(self._sid, ME, f"{turn.name}-0")

    async def _read(self, events: AsyncIterator[Event | None]) -> None:
        async for event in events:
            if event is not None and event.name == "message.delta":
                self.got.append(event.data)

    def _count_reads(self, name: str) -> None:
        log = self.store.events
        read = getattr(log, name)

        async def counted(*arguments: Any) -> Any:
            self.reads += 1
            return await read(*arguments)

        setattr(log, name, counted)


@pytest.fixture(params=["session", "turn"])
async def followed(request: pytest.FixtureRequest) -> AsyncIterator[Followed]:
    followed = Followed(request.param)
    await followed.begin()
    yield followed
    await followed.close()


async def test_an_event_is_read_once(followed: Followed) -> None:
    followed.follow()
    await until(lambda: len(followed.got) == 1)
    await turns(20)
    before = followed.reads
    followed.gate.set()
    await until(lambda: len(followed.got) == 2)
    await turns(20)
    assert followed.reads == before + 1


async def test_behind_a_full_page_the_rest_is_read_at_once(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for page in ("agent_worker.sessions.event_log._PAGE", f"{event_log.__name__}.PAGE"):
        monkeypatch.setattr(page, 1)
    followed.gate.set()
    await until(lambda: followed.worker.text() == "onetwo")
    followed.follow()
    await turns(50)
    assert len(followed.got) == 2
