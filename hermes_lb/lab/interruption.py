"""SIGINT and SIGTERM end a run, as KeyboardInterrupt, and everything it has started."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from types import FrameType

    _Handler = Callable[[int, FrameType | None], Any]

_T = TypeVar("_T")


@contextmanager
def sigterm_interrupts(handler: _Handler = signal.default_int_handler) -> Iterator[None]:
    """Within it SIGTERM acts as SIGINT does by default, even where a background job ignores SIGINT.

    The default of SIGTERM would leave started processes behind.
    """
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """`asyncio.run`, but SIGTERM also cancels the task.

    Raises KeyboardInterrupt once the task has ended.
    """
    interrupted = False

    async def cancelled_by_sigterm() -> _T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None

        def cancel(number: int, frame: FrameType | None) -> None:
            nonlocal interrupted
            interrupted = True
            task.cancel()
            loop.call_soon_threadsafe(lambda: None)  # wakes it, as asyncio's own handler does

        with sigterm_interrupts(cancel):
            return await main

    try:
        return asyncio.run(cancelled_by_sigterm())
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
