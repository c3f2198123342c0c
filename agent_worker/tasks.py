"""The one place where tasks are started: each keeps a reference, and none fails unheard."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

log = logging.getLogger(__name__)

# The loop itself holds tasks only weakly: without this set a task could vanish in mid-flight.
_running: set[asyncio.Task[Any]] = set()


def spawn(coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    """Start `coro` as a task. An exception that nobody awaits is logged, with the task's name."""
    task = asyncio.create_task(coro, name=name)  # noqa: TID251
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


def spawn_reporting(coro: Coroutine[Any, Any, object], *, name: str) -> asyncio.Task[object]:
    """Like `spawn`, for a task whose result nobody will ask for: its failure is logged at once."""
    task = spawn(coro, name=name)
    task.add_done_callback(_report)
    return task


async def uncancelled(coro: Coroutine[Any, Any, T], *, name: str) -> T:
    """Run `coro` to its end even when the caller is cancelled meanwhile, however often.

    The cancellation is raised afterwards, so it is late by as long as `coro` takes. Used for
    single store operations: one that was cancelled half-way may or may not have happened, and
    whatever is sent next could overtake it on another connection.
    """
    task = spawn(coro, name=name)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(asyncio.CancelledError):
            await _ended(task)
        raise


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel the tasks and wait until all of them have ended; their outcomes stay in them.

    It waits even when the caller is cancelled meanwhile, however often: what the tasks have to
    finish would go on unheard otherwise. The cancellation is raised afterwards.
    """
    for task in tasks:
        task.cancel()
    await _ended(*tasks)


async def _ended(*tasks: asyncio.Task[Any]) -> None:
    """Return, or raise the cancellation that came meanwhile, once all of them have ended."""
    cancellation: asyncio.CancelledError | None = None
    while running := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError as error:
            cancellation = error
    for task in tasks:
        if not task.cancelled():
            # Looked at, so that asyncio does not report it as lost.
            task.exception()
    if cancellation is not None:
        raise cancellation


def _report(task: asyncio.Task[Any]) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        log.error("task %s failed", task.get_name(), exc_info=error)
