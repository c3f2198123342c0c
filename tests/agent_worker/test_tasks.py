import asyncio
import logging

import pytest

from agent_worker.tasks import cancel_and_wait, spawn, spawn_reporting, uncancelled


async def fail() -> None:
    raise RuntimeError("broken")


async def test_a_failed_task_that_nobody_awaits_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = spawn_reporting(fail(), name="the job")
    with caplog.at_level(logging.ERROR), pytest.raises(RuntimeError):
        await task
    await asyncio.sleep(0)
    assert "the job failed" in caplog.text


@pytest.mark.parametrize("times", [1, 3])
async def test_uncancelled_finishes_its_work_before_it_gives_in(times: int) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()
    done = []

    async def work() -> None:
        begun.set()
        await gate.wait()
        done.append(True)

    task = spawn(uncancelled(work(), name="work"), name="caller")
    await begun.wait()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [True]


async def test_uncancelled_returns_and_raises_like_the_work_itself() -> None:
    async def seven() -> int:
        return 7

    assert await uncancelled(seven(), name="work") == 7
    with pytest.raises(RuntimeError, match="broken"):
        await uncancelled(fail(), name="work")


async def test_cancel_and_wait_waits_for_the_cleaning_up() -> None:
    cleaned = []
    begun = asyncio.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    task = spawn(work(), name="work")
    await begun.wait()
    await cancel_and_wait(task)
    assert task.cancelled()
    assert cleaned == [True]


@pytest.mark.parametrize("times", [1, 3])
async def test_cancel_and_wait_waits_on_when_its_caller_is_cancelled(times: int) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()
    cleaned = []

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await gate.wait()
            cleaned.append(True)

    task = spawn(work(), name="work")
    await begun.wait()
    caller = spawn(cancel_and_wait(task), name="caller")
    for _ in range(times):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        caller.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not caller.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert cleaned == [True]
