"""The tasks of a worker that have a turn open: a drain waits for them, shutdown cancels them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class OpenTurns:
    """Those of `parent`, which cancels them, include these."""

    def __init__(self, parent: OpenTurns | None = None) -> None:
        self._parent = parent
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    def __len__(self) -> int:
        return len(self._tasks)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """The current task has a turn open inside the block."""
        task = asyncio.current_task()
        assert task is not None
        self.add(task)
        try:
            yield
        finally:
            self._remove(task)

    def add(self, task: asyncio.Task[Any]) -> None:
        """Count `task` until it is done."""
        if self._parent is not None:
            self._parent.add(task)
        self._tasks.add(task)
        self._is_idle.clear()
        task.add_done_callback(self._remove)

    async def wait_idle(self) -> None:
        """Return once no turn is open."""
        await self._is_idle.wait()

    def cancel(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()

    def _remove(self, task: asyncio.Task[Any]) -> None:
        if self._parent is not None:
            self._parent._remove(task)
        task.remove_done_callback(self._remove)
        self._tasks.discard(task)
        if not self._tasks:
            self._is_idle.set()
