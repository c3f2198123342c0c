"""The open turns of a worker: a drain waits for them, shutdown cancels them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from agent_worker.tasks import this_task

if TYPE_CHECKING:
    from collections.abc import Iterator


class OpenTurns:
    """The tasks of open turns, and the ids of sessions whose queued messages are looked for next.

    Those of `parent`, which cancels them, include these.
    """

    def __init__(self, parent: OpenTurns | None = None) -> None:
        self._parent = parent
        self._open: set[asyncio.Task[Any] | str] = set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, turn: asyncio.Task[Any] | str) -> bool:
        return turn in self._open

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """The current task has a turn open inside the block."""
        task = this_task()
        self.add(task)
        try:
            yield
        finally:
            self.discard(task)

    def add(self, turn: asyncio.Task[Any] | str) -> None:
        if self._parent is not None:
            self._parent.add(turn)
        self._open.add(turn)
        self._is_idle.clear()

    def discard(self, turn: asyncio.Task[Any] | str) -> None:
        if self._parent is not None:
            self._parent.discard(turn)
        self._open.discard(turn)
        if not self._open:
            self._is_idle.set()

    async def wait_idle(self) -> None:
        await self._is_idle.wait()

    def cancel(self) -> None:
        for turn in tuple(self._open):
            if isinstance(turn, asyncio.Task):
                turn.cancel()
