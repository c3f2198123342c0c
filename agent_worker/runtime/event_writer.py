"""Writes a turn's events: to the log first, then to the client.

Events that arrive while a write is in flight are batched into the next one. A fast model costs few
round trips, and the tokens of a slow model are written one by one, at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from agent_worker.runtime.events import DONE
from agent_worker.sessions import Event
from agent_worker.sessions.operations import dump

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from agent_worker.runtime.events import Emit

# Events that may be pending, because of Redis or of a slow client, before the model has to wait.
# A turn whose store is away for a moment continues its step.
_MAX_PENDING = 2048


class EventWriter:
    """Of one turn. `append` writes to the log (under the lease); `run` is a task of the caller."""

    def __init__(
        self, fence: int, append: Callable[[Sequence[Event]], Awaitable[None]], client: Emit
    ) -> None:
        self._fence = fence
        self._seq = 0
        self._append = append
        self._client = client
        self._pending: list[Event] = []
        # In the log, and not delivered to the client yet.
        self._logged: deque[Event] = deque()
        self._has_pending = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        # One write at a time: the log refuses ids that are out of order.
        self._write_lock = asyncio.Lock()

    async def emit(self, name: str, data: dict[str, Any]) -> None:
        """Queue an event for `run`; waits while too many are pending."""
        await self._has_room.wait()
        self._pending.append(self._event(name, data))
        self._has_pending.set()
        if len(self._pending) >= _MAX_PENDING:
            self._has_room.clear()

    async def run(self) -> None:
        """Until cancelled. Raises what `append` raises; ConnectionError if the client has left."""
        while True:
            await self._has_pending.wait()
            async with self.writing() as events:
                if events:
                    await self._append(events)

    @property
    def last_id(self) -> str:
        """Of the last event that was queued; empty if there was none."""
        return f"{self._fence}-{self._seq}" if self._seq else ""

    @contextlib.asynccontextmanager
    async def writing(self, *, delivers: bool = True) -> AsyncIterator[list[Event]]:
        """The pending events. The block writes them to the log; then the client gets them.

        They are pending again if the block raises. Unless `delivers`, the caller calls `deliver`.
        """
        async with self._write_lock:
            events, self._pending = self._pending, []
            self._has_pending.clear()
            try:
                yield events
            except BaseException:
                self._pending = [*events, *self._pending]
                raise
            self._has_room.set()
            self._logged.extend(events)
            if delivers:
                await self.deliver()

    def append_last(self, events: list[Event], name: str, data: dict[str, Any]) -> None:
        """Inside `writing`: add one more event, after everything that is pending by now.

        It replaces a `done` whose commit has failed.
        """
        events[:] = [event for event in (*events, *self._pending) if event.name != DONE]
        self._pending = []
        events.append(self._event(name, data))

    def _event(self, name: str, data: dict[str, Any]) -> Event:
        self._seq += 1
        return Event(self.last_id, name, dump(data))

    async def deliver_rest(self) -> None:
        """Deliver what is in the log, including a write whose cancellation hid its success."""
        self._logged.extend(self._pending)
        self._pending = []
        await self.deliver()

    async def send_unlogged(self, name: str, data: dict[str, Any], *, event_id: str = "") -> None:
        """Send an event to this client only."""
        await self._client(Event(event_id, name, dump(data)))

    async def deliver(self) -> None:
        while self._logged:
            # Removed first: an event whose sending is cancelled may have arrived.
            await self._client(self._logged.popleft())
