"""Starts all tasks: a reference is kept, and errors are reported."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

log = logging.getLogger(__name__)

# The event loop holds weak references only: without this set a running task could be collected.
_running: set[asyncio.Task[Any]] = set()


def spawn(coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    """Start `coro` as a task. An exception that is never retrieved is logged by asyncio."""
    task = asyncio.create_task(coro, name=name)  # noqa: TID251
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


def spawn_reporting(coro: Coroutine[Any, Any, object], *, name: str) -> asyncio.Task[object]:
    """Like `spawn`, for a task whose result is not awaited: its failure is logged at once."""
    task = spawn(coro, name=name)
    task.add_done_callback(_report)
    return task


def this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def uncancelled(coro: Coroutine[Any, Any, T], *, name: str) -> T:
    """Run `coro` to its end even if the caller is cancelled, any number of times.

    The cancellation is raised afterwards. For single operations of the store: whether a cancelled
    one was done is unknown, and the next one could overtake it on another connection.
    """
    task = spawn(coro, name=name)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(asyncio.CancelledError):
            await _ended(task)
        raise


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel the tasks and wait until all have ended; their results are not raised.

    It waits even if the caller is cancelled, any number of times, so that no task outlives it. The
    cancellation is raised afterwards.
    """
    for task in tasks:
        task.cancel()
    await _ended(*tasks)


async def _ended(*tasks: asyncio.Task[Any]) -> None:
    """Wait until all have ended; then raise a cancellation that arrived meanwhile."""
    cancellation: asyncio.CancelledError | None = None
    while running := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError as error:
            cancellation = error
    for task in tasks:
        if not task.cancelled():
            # Retrieved, so that asyncio does not report it.
            task.exception()
    if cancellation is not None:
        raise cancellation


def _report(task: asyncio.Task[Any]) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        log.error("task %s failed", task.get_name(), exc_info=error)
