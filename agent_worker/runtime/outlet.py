"""Where a turn's events leave: into the log first, then to the client.

Events that come while a write is on its way go together with the next one. So a fast model costs
few round trips, and a slow one has each token out at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from agent_worker.runtime.events import EventNumbering
from agent_worker.sessions import Event
from agent_worker.sessions.operations import dump

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from agent_worker.runtime.events import Emit

# Events that may wait, for Redis or for a client that reads slowly, before the model has to. A
# turn whose store is away for a moment gets on with its step.
_MOST_WAITING = 2048


class Outlet:
    """One turn's. `append` keeps events in the log (the lease's holder only); `run` is a task."""

    def __init__(
        self, fence: int, append: Callable[[Sequence[Event]], Awaitable[None]], client: Emit
    ) -> None:
        self._numbering = EventNumbering(fence)
        self._append = append
        self._client = client
        self._waiting: list[Event] = []
        # In the log, and on their way to the client.
        self._logged: deque[Event] = deque()
        self._came = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        # Who writes to the log, one after another: ids that are not in order would be refused.
        self._writing = asyncio.Lock()

    async def emit(self, name: str, data: dict[str, Any]) -> None:
        """Put an event down for `run`; waits while too many are waiting."""
        await self._has_room.wait()
        self._put(name, data)

    async def run(self) -> None:
        """Until cancelled. Raises what `append` does, and ConnectionError when the client left."""
        while True:
            await self._came.wait()
            async with self.writing() as events:
                if events:
                    await self._append(events)

    @property
    def last_id(self) -> str:
        """Of the last event that was put down; empty if there was none."""
        return self._numbering.last

    @contextlib.asynccontextmanager
    async def writing(self, *, delivers: bool = True) -> AsyncIterator[list[Event]]:
        """What waits: the block puts it into the log, and then it goes to the client.

        If the block fails, it waits again. Unless `delivers`, the client gets it by `deliver`.
        """
        async with self._writing:
            events, self._waiting = self._waiting, []
            self._came.clear()
            try:
                yield events
            except BaseException:
                self._waiting = [*events, *self._waiting]
                raise
            self._has_room.set()
            self._logged.extend(events)
            if delivers:
                await self.deliver()

    def put_last(self, events: list[Event], name: str, data: dict[str, Any]) -> None:
        """Inside of `writing`: one more, behind all that waits."""
        events.extend(self._waiting)
        self._waiting = []
        events.append(self._numbering.event(name, data))

    async def deliver_rest(self) -> None:
        """To the client what is in the log, but whose way there was cut off."""
        self._logged.extend(self._waiting)
        self._waiting = []
        await self.deliver()

    async def tell(self, name: str, data: dict[str, Any], *, event_id: str = "") -> None:
        """To this client only."""
        await self._client(Event(event_id, name, dump(data)))

    async def deliver(self) -> None:
        """To the client what is in the log."""
        while self._logged:
            # Taken out first: one that is cut off while it is sent may have arrived.
            await self._client(self._logged.popleft())

    def _put(self, name: str, data: dict[str, Any]) -> None:
        self._waiting.append(self._numbering.event(name, data))
        self._came.set()
        if len(self._waiting) >= _MOST_WAITING:
            self._has_room.clear()
