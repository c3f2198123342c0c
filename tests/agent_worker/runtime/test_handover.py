"""A drain hands the running turns over one after another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.errors import HandedOver
from agent_worker.tasks import spawn
from tests.agent_worker.sessions.memory import MemoryBackend
from tests.support.agent.harness import Harness
from tests.support.agent.runtime import PausedEngine, speech
from tests.support.agent.sessions import ME, open_store
from tests.support.waiting import turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_TURNS = 3
_WORD = "word "


class SpeakingWorker(Harness):
    """`_TURNS` turns are in mid-sentence, and their engine can continue them elsewhere."""

    def __init__(self) -> None:
        backend = MemoryBackend()
        self.store = open_store(backend)
        plan = [[*speech(_WORD), None] for _ in range(_TURNS + 1)]
        super().__init__(backend, self.store, PausedEngine(*plan, can_continue=True))
        self.running = [spawn(self.begin(), name="turn") for _ in range(_TURNS)]

    async def begin(self) -> Any:
        sid = await self.store.create(ME, {})
        return await self.turn(sid, "go", accepts_handover=True)

    def over(self) -> int:
        return sum(turn.done() for turn in self.running)


@pytest.fixture
async def worker() -> AsyncIterator[SpeakingWorker]:
    worker = SpeakingWorker()
    await until(lambda: worker.text() == _WORD * _TURNS)
    yield worker
    await worker.turns.cancel_all()
    await asyncio.gather(*worker.running, return_exceptions=True)


@pytest.fixture
async def one_is_handed_over(worker: SpeakingWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_worker.runtime.turns._HANDOVER_S", 3600.0)
    worker.turns.hand_over()
    await until(lambda: worker.over() > 0)


@pytest.mark.usefixtures("one_is_handed_over")
async def test_the_others_wait(worker: SpeakingWorker) -> None:
    await turns()
    assert worker.over() == 1


@pytest.mark.usefixtures("one_is_handed_over")
async def test_a_turn_that_begins_meanwhile_does_not_wait(worker: SpeakingWorker) -> None:
    with pytest.raises(HandedOver):
        await worker.begin()


@pytest.mark.usefixtures("one_is_handed_over")
async def test_a_stop_does_not_wait(worker: SpeakingWorker) -> None:
    [handing_over] = [task for task in asyncio.all_tasks() if task.get_name() == "handover"]
    await worker.turns.cancel_all()
    await asyncio.wait([handing_over, *worker.running])
    assert handing_over.cancelled()


async def test_all_are_handed_over(worker: SpeakingWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_worker.runtime.turns._HANDOVER_S", 0.01)
    worker.turns.hand_over()
    results = await asyncio.gather(*worker.running, return_exceptions=True)
    assert [type(result) for result in results] == [HandedOver] * _TURNS
