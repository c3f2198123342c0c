"""Two workers on one backend, on Redis and in memory: the protocols are all that a worker needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent_worker.app import Worker, WorkerConfig
from tests.support.agent.engines import PlannedEngine
from tests.support.agent.running_worker import RunningWorker
from tests.support.agent.runtime import PausedEngine, amid_a_turn, create, post, speech
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent_worker.models import Engine
    from tests.support.agent.sessions import Backend


@pytest.fixture
async def pair(backend: Backend) -> AsyncIterator[tuple[PausedEngine, list[RunningWorker]]]:
    """The first one's engine waits until it is stopped or its gate is set."""
    paused = PausedEngine([*speech("one "), None, *speech("two")])
    engines: list[Engine] = [paused, PlannedEngine(speech("three"))]
    workers = [
        await RunningWorker.start(Worker(WorkerConfig(), backend, engine=engine))
        for engine in engines
    ]
    yield paused, workers
    for worker in workers:
        await worker.stop()


async def test_the_next_turn_runs_on_another_worker(
    pair: tuple[PausedEngine, list[RunningWorker]],
) -> None:
    paused, [first, other] = pair
    paused.gate.set()
    sid = await create(first)
    assert (await post(first, sid, "go")).body["content"] == "one two"
    assert (await post(other, sid, "on")).body["content"] == "three"
    async with first.get(sid) as response:
        messages = (await response.json())["messages"]
    assert [message["content"] for message in messages] == ["go", "one two", "on", "three"]


async def test_a_turn_is_interrupted_by_another_worker(
    pair: tuple[PausedEngine, list[RunningWorker]],
) -> None:
    paused, [first, other] = pair
    sid, interrupted = await amid_a_turn(first, paused.paused)
    assert (await post(other, sid, "stop", "interrupt")).body["content"] == "three"
    assert (await interrupted).error == "turn_interrupted"


async def test_queued_messages_run_on_one_of_the_workers(
    pair: tuple[PausedEngine, list[RunningWorker]],
) -> None:
    paused, [first, other] = pair
    paused.steps.append(speech("both"))
    sid, answer = await amid_a_turn(first, paused.paused)
    assert (await post(other, sid, "later", "enqueue")).status == 202
    paused.gate.set()
    assert (await answer).body["content"] == "one two"

    async def contents() -> list[str]:
        async with other.get(sid) as response:
            return [message["content"] for message in (await response.json())["messages"]]

    async def is_answered() -> bool:
        *messages, last = await contents()
        return messages == ["first", "one two", "later"] and last in {"both", "three"}

    await until(is_answered)
